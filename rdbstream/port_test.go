package rdbstream

import (
	"bytes"
	"encoding/binary"
	"errors"
	"testing"
)

func TestPortDump(t *testing.T) {
	const meta = "\xf3\x00" // a KEY_META block of no classes
	noCRC := func(p []byte) []byte { return append(bytes.Clone(p[:len(p)-8]), make([]byte, 8)...) }
	for name, tc := range map[string]struct{ in, want []byte }{
		"a string of Redis 8":             {payload("\x00\x01v", 12), payload("\x00\x01v", 6)},
		"a string of Valkey 9":            {payload("\x00\x01v", 80), payload("\x00\x01v", 6)},
		"a listpack of Redis 8":           {payload("\x10\x01v", 12), payload("\x10\x01v", 10)},
		"a hash with expiries, Redis":     {payload("\x19\x01v", 13), payload("\x19\x01v", 12)},
		"a hash with expiries, Valkey":    {payload("\x16\x01v", 80), nil},
		"the lowest version already":      {payload("\x12\x01v", 10), nil},
		"no CRC":                          {noCRC(payload("\x12\x01v", 12)), payload("\x12\x01v", 10)},
		"no CRC, the lowest version":      {noCRC(payload("\x12\x01v", 10)), payload("\x12\x01v", 10)},
		"metadata":                        {payload(meta+"\x00\x01v", 14), payload(meta+"\x00\x01v", 13)},
		"a type that nobody knows":        {payload("\x60\x01v", 15), nil},
		"a type that is newer than it is": {payload("\x14\x01v", 9), nil},
		"bytes that are too short":        {[]byte("0123456789"), nil},
	} {
		t.Run(name, func(t *testing.T) {
			out, ok, err := PortDump([]byte("before"), tc.in, nil)
			if err != nil || ok != (tc.want != nil) || string(out) != "before"+string(tc.want) {
				t.Errorf("got %q, %v, %v; want %q", out, ok, err, tc.want)
			}
		})
	}
	broken := payload("\x00\x01v", 12)
	broken[2] ^= 1
	var crc *CRCError
	if out, ok, err := PortDump([]byte("before"), broken, nil); ok || !errors.As(err, &crc) || string(out) != "before" {
		t.Errorf("a wrong CRC: got %q, %v, %v", out, ok, err)
	}
	dst, p := make([]byte, 0, 64), payload("\x00\x01v", 12)
	if got := testing.AllocsPerRun(100, func() { _, _, _ = PortDump(dst, p, nil) }); got != 0 {
		t.Errorf("%v allocations", got)
	}
}

func TestPortDumpMaps(t *testing.T) {
	value := "\x01\x01f\x01v" // of a hash of one field, and its expiry
	hash := payload("\x16"+value+string(binary.LittleEndian.AppendUint64(nil, 5)), 80)
	out, ok, err := PortDump(nil, hash, func(ms int64) int64 { return ms + 1 })
	if want := payload("\x16"+value+string(binary.LittleEndian.AppendUint64(nil, 6)), 80); !ok || err != nil || !bytes.Equal(out, want) {
		t.Errorf("got %q, %v, %v; want %q", out, ok, err, want)
	}
}

func TestPortFunctions(t *testing.T) {
	for name, tc := range map[string]struct{ in, want []byte }{
		"of Redis 8":    {payload("\xf5\x01v\xf5\x01w", 12), payload("\xf5\x01v\xf5\x01w", 10)},
		"of Redis 7.0":  {payload("\xf5\x01v", 10), nil},
		"of no library": {payload("", 12), payload("", 10)},
		"a value":       {payload("\x00\x01v", 12), nil},
		"too short":     {[]byte("x"), nil},
	} {
		if out, ok := PortFunctions([]byte("before"), tc.in); ok != (tc.want != nil) || string(out) != "before"+string(tc.want) {
			t.Errorf("%s: got %q, %v; want %q", name, out, ok, tc.want)
		}
	}
}
