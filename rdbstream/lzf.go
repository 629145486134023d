package rdbstream

var errLZF = &CorruptError{"LZF data"}

// lzfMaxRatio bounds what LZF can make of one byte: its longest back reference takes 3 bytes and yields 264.
const lzfMaxRatio = 88

// appendLZF decompresses src, which must become exactly size bytes, and appends them to dst (lzf_d.c, lzf_decompress).
//
// A control byte below 32 is followed by that many literal bytes and one more. Otherwise its upper three bits are a length (7: one more
// byte is to be added to it), its lower five and the byte that follows are a distance back, less one; length and two bytes are repeated.
func appendLZF(dst, src []byte, size uint64) ([]byte, error) {
	if size > uint64(len(src))*lzfMaxRatio {
		return dst, errLZF // before anything is allocated for it
	}
	begin := len(dst)
	end := begin + int(size)
	for i := 0; i < len(src); {
		ctrl := int(src[i])
		i++
		if ctrl < 32 {
			n := ctrl + 1
			if n > len(src)-i || n > end-len(dst) {
				return dst, errLZF
			}
			dst = append(dst, src[i:i+n]...)
			i += n
			continue
		}
		n := ctrl >> 5
		if n == 7 {
			if i == len(src) {
				return dst, errLZF
			}
			n += int(src[i])
			i++
		}
		if i == len(src) {
			return dst, errLZF
		}
		from := len(dst) - 1 - (ctrl&31<<8 | int(src[i]))
		i++
		n += 2
		if from < begin || n > end-len(dst) {
			return dst, errLZF
		}
		// What is repeated may reach into what it makes: then its first part is all that there is yet, and doubles with each round.
		for n > 0 {
			part := dst[from:min(from+n, len(dst))]
			dst = append(dst, part...)
			n -= len(part)
		}
	}
	if len(dst) != end {
		return dst, errLZF
	}
	return dst, nil
}
