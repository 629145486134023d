package rdbstream

import "encoding/binary"

// jones is the polynomial of Redis' CRC64 (crc64.c: ad93d23594c935a9), bits reversed.
const jones = 0x95ac9329ac4bc9b5

// crcTables are for slicing by 16: crcTables[k][b] is the CRC of byte b followed by k zero bytes. Never written after this line.
var crcTables = newCRCTables()

func newCRCTables() *[16][256]uint64 {
	var t [16][256]uint64
	for b := range t[0] {
		crc := uint64(b)
		for range 8 {
			if crc&1 != 0 {
				crc = crc>>1 ^ jones
			} else {
				crc >>= 1
			}
		}
		t[0][b] = crc
	}
	for k := 1; k < len(t); k++ {
		for b := range t[k] {
			prev := t[k-1][b]
			t[k][b] = prev>>8 ^ t[0][prev&0xff]
		}
	}
	return &t
}

// CRC64 continues crc over p as Redis does it: Jones' polynomial, reflected, begun with 0, not inverted. That of "123456789" is
// e9c6d914c4b8d9ca.
func CRC64(crc uint64, p []byte) uint64 {
	t := crcTables
	for len(p) >= 16 {
		a := crc ^ binary.LittleEndian.Uint64(p)
		b := binary.LittleEndian.Uint64(p[8:])
		crc = t[15][byte(a)] ^ t[14][byte(a>>8)] ^ t[13][byte(a>>16)] ^ t[12][byte(a>>24)] ^
			t[11][byte(a>>32)] ^ t[10][byte(a>>40)] ^ t[9][byte(a>>48)] ^ t[8][byte(a>>56)] ^
			t[7][byte(b)] ^ t[6][byte(b>>8)] ^ t[5][byte(b>>16)] ^ t[4][byte(b>>24)] ^
			t[3][byte(b>>32)] ^ t[2][byte(b>>40)] ^ t[1][byte(b>>48)] ^ t[0][byte(b>>56)]
		p = p[16:]
	}
	if len(p) >= 8 {
		a := crc ^ binary.LittleEndian.Uint64(p)
		crc = t[7][byte(a)] ^ t[6][byte(a>>8)] ^ t[5][byte(a>>16)] ^ t[4][byte(a>>24)] ^
			t[3][byte(a>>32)] ^ t[2][byte(a>>40)] ^ t[1][byte(a>>48)] ^ t[0][byte(a>>56)]
		p = p[8:]
	}
	for _, b := range p {
		crc = crc>>8 ^ t[0][byte(crc)^b]
	}
	return crc
}
