package verify

import "strings"

// A HyperLogLog is a string, with a cached count in it that reading may renew, in one of two
// encodings that depends on the server's settings: two with other bytes may mean the same.

const (
	hllMagic     = "HYLL"
	hllHeader    = 16 // magic, encoding, 3 bytes of nothing, the cached count
	hllRegisters = 1 << 14
	hllBits      = 6 // of a register
	hllDenseSize = hllHeader + hllRegisters*hllBits/8
)

// sameHLL tells whether two strings are HyperLogLogs with the same registers.
func sameHLL(a, b string) bool {
	if !strings.HasPrefix(a, hllMagic) || !strings.HasPrefix(b, hllMagic) {
		return false
	}
	x, ok := registers(a)
	if !ok {
		return false
	}
	y, ok := registers(b)
	return ok && *x == *y
}

// registers decodes a HyperLogLog; ok is false for what is none.
func registers(s string) (r *[hllRegisters]byte, ok bool) {
	if len(s) < hllHeader {
		return nil, false
	}
	switch s[len(hllMagic)] {
	case 0:
		return denseRegisters(s)
	case 1:
		return sparseRegisters(s[hllHeader:])
	}
	return nil, false
}

func denseRegisters(s string) (r *[hllRegisters]byte, ok bool) {
	if len(s) != hllDenseSize {
		return nil, false
	}
	r = new([hllRegisters]byte)
	s = s[hllHeader:]
	for i := range r {
		at := i * hllBits
		bits := uint(s[at/8])
		if at/8+1 < len(s) {
			bits |= uint(s[at/8+1]) << 8
		}
		r[i] = byte(bits >> (at % 8) & (1<<hllBits - 1))
	}
	return r, true
}

// sparseRegisters reads runs: of 1 to 64 zeros (00nnnnnn), of 1 to 16384 (01nnnnnn nnnnnnnn), and
// of 1 to 4 registers with a value from 1 to 32 (1vvvvvnn).
func sparseRegisters(s string) (r *[hllRegisters]byte, ok bool) {
	r = new([hllRegisters]byte)
	at := 0
	for i := 0; i < len(s); i++ {
		n, value := 0, byte(0)
		switch b := s[i]; {
		case b&0x80 != 0:
			n, value = int(b&3)+1, b>>2&0x1f+1
		case b&0x40 == 0:
			n = int(b) + 1
		default:
			if i++; i == len(s) {
				return nil, false
			}
			n = int(b&0x3f)<<8 + int(s[i]) + 1
		}
		if n > hllRegisters-at {
			return nil, false
		}
		for ; n > 0; n-- {
			r[at] = value
			at++
		}
	}
	return r, at == hllRegisters
}
