package replica

import "math"

// The limits of one command. A server's own for the arguments is INT_MAX; the length of an argument is not limited on a replica's link
// (protocol 1.6), and 4 GiB is eight times what a server takes from a client. Memory is allocated as bytes arrive, never for what is only announced.
const (
	maxArgs = math.MaxInt32
	maxBulk = 4 << 30
)

// framer finds the end of one command in bytes that come in pieces. It sees every byte once, whatever the pieces, where
// redcon.ReadNextCommand begins anew with each; and it checks every length, where redcon trusts them.
//
// A frame is *<count>\r\n and count times $<length>\r\n<bytes>\r\n, with numbers as string2ll reads them: no sign, no leading zero.
type framer struct {
	want   part
	digits int   // of num so far
	num    int64 // the number being read
	args   int64 // arguments announced
	left   int64 // arguments still to come, the present one included
	body   int64 // bytes of the present argument still to come
}

// part is what a framer expects next.
type part uint8

const (
	star part = iota
	count
	countLF
	dollar
	length
	lengthLF
	body
	bodyCR
	bodyLF
)

// feed goes over the bytes behind those that it has seen. It returns how many of them belong to the frame, and whether the frame is
// complete with them. A reason means that p[n] cannot stand there.
func (f *framer) feed(p []byte) (n int, done bool, reason string) {
	for n < len(p) {
		c := p[n]
		switch f.want {
		case star:
			if c != '*' {
				return n, false, "expected a command, which begins with '*'"
			}
			f.want, f.digits, f.num = count, 0, 0
		case count:
			if reason := f.number(c, maxArgs, countLF); reason != "" {
				return n, false, "number of arguments: " + reason
			}
		case countLF:
			if c != '\n' {
				return n, false, "number of arguments: expected \\r\\n"
			}
			if f.num == 0 {
				return n, false, "a command without a name"
			}
			f.want, f.args, f.left = dollar, f.num, f.num
		case dollar:
			if c != '$' {
				return n, false, "expected an argument, which begins with '$'"
			}
			f.want, f.digits, f.num = length, 0, 0
		case length:
			if reason := f.number(c, maxBulk, lengthLF); reason != "" {
				return n, false, "length of an argument: " + reason
			}
		case lengthLF:
			if c != '\n' {
				return n, false, "length of an argument: expected \\r\\n"
			}
			f.want, f.body = body, f.num
		case body:
			k := min(f.body, int64(len(p)-n))
			if f.body -= k; f.body == 0 {
				f.want = bodyCR
			}
			n += int(k)
			continue
		case bodyCR:
			if c != '\r' {
				return n, false, "expected \\r\\n behind an argument"
			}
			f.want = bodyLF
		case bodyLF:
			if c != '\n' {
				return n, false, "expected \\r\\n behind an argument"
			}
			if f.left--; f.left == 0 {
				return n + 1, true, ""
			}
			f.want = dollar
		}
		n++
	}
	return n, false, ""
}

// number takes one byte of a number: a digit, or the \r behind the last one, after which next is expected.
func (f *framer) number(c byte, limit int64, next part) (reason string) {
	if c == '\r' && f.digits > 0 {
		f.want = next
		return ""
	}
	if c < '0' || c > '9' {
		return "not a number"
	}
	if f.digits > 0 && f.num == 0 {
		return "a leading zero"
	}
	f.digits++
	if f.num = f.num*10 + int64(c-'0'); f.num > limit {
		return "too large"
	}
	return ""
}
