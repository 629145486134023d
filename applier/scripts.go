package applier

import (
	"bytes"
	"context"
	"crypto/sha1"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"

	"github.com/rs/zerolog"

	"redferry/replica"
)

// Redis before 7.0 sends the scripts that its clients load, and keeps them in its RDB: a replica
// has them. With `lua-replicate-commands no` it also sends the calls of scripts, and not what they
// write: by the text where no replica may know it, and else by its SHA1. A replica that it is sent
// to in vain would lose what the script writes.

// scriptMemory are the scripts that this process has heard of, by their SHA1: a target that
// restarts has forgotten them. The queue's lock guards it.
type scriptMemory struct {
	texts map[string][]byte
	size  int
}

// maxScripts is how many bytes of scripts are kept. Sources do not have more but by mistake.
const maxScripts = 64 << 20

func (m *scriptMemory) add(text []byte) {
	sum := sha1.Sum(text)
	sha := hex.EncodeToString(sum[:])
	if _, known := m.texts[sha]; known || m.size+len(text) > maxScripts {
		return
	}
	if m.texts == nil {
		m.texts = map[string][]byte{}
	}
	m.texts[sha] = bytes.Clone(text)
	m.size += len(text)
}

// find gives the text of a script; nil when it is not known.
func (m *scriptMemory) find(sha []byte) []byte {
	var lower [2 * sha1.Size]byte
	if len(sha) != len(lower) {
		return nil
	}
	for i, b := range sha {
		lower[i] = b | 0x20 // digits stay
	}
	return m.texts[string(lower[:])]
}

// scriptCacheForm is for SCRIPT LOAD and SCRIPT FLUSH. The second's option came with 6.2.
func scriptCacheForm(a *Applier, t translated, _ spot) (translated, bool, error) {
	switch {
	case len(t.args) == 3 && isOneOf(t.args[1], "LOAD"):
		a.scripts.add(t.args[2])
		return t, false, nil
	case len(t.args) >= 2 && isOneOf(t.args[1], "FLUSH"):
		a.scripts = scriptMemory{}
		t.args = t.args[:2]
		return t, false, nil
	}
	return t, true, nil
}

// scriptForm is for EVAL, which goes as it is, and for EVALSHA, which goes as EVAL where the text
// is known: then it does not matter what the target has forgotten. What the script has given an
// expiry is shifted behind it, as far as it names its keys.
func scriptForm(a *Applier, t translated, _ spot) (translated, bool, error) {
	if len(t.args) < 3 {
		return t, false, nil
	}
	r := &a.forms
	r.reset()
	if len(t.args[0]) == len(nameEval) {
		a.scripts.add(t.args[1])
	} else if text := a.scripts.find(t.args[1]); text != nil {
		r.args = append(append(r.args, nameEval, text), t.args[2:]...)
		t.args = r.args
	}
	n, err := strconv.Atoi(string(t.args[2]))
	if a.expiries.below > 0 && err == nil && n > 0 && n <= len(t.args)-3 {
		r.second = append(append(r.second, nameEval, shiftScript), t.args[2:3+n]...)
		t.then = append(r.second, shiftArguments(a.expiries.below)...)
		r.second = t.then
	}
	return t, false, nil
}

// hasScript makes sure that the target has the script that command i of b calls by its SHA1. It is
// asked once for each connection.
func (a *Applier) hasScript(ctx context.Context, b *batch, i int) error {
	if !isOneOf(b.argument(i, 0), "EVALSHA") || a.conn == nil {
		return nil
	}
	sha := strings.ToLower(string(b.argument(i, 1)))
	if a.conn.scripts[sha] {
		return nil
	}
	there, err := a.client.Do(ctx, a.client.B().ScriptExists().Sha1(sha).Build()).AsIntSlice()
	if err != nil || len(there) != 1 {
		err = replica.AuthStop("target", a.Target, err)
		return fmt.Errorf("ask the target for a script, %d replies: %w", len(there), err)
	}
	if there[0] == 0 {
		return &replica.Stop{
			Kind: replica.Refused,
			Reason: fmt.Sprintf("the target has lost script %s, which the unit that ends at offset %d calls",
				sha, b.units[b.unitOf(i)].end.Offset),
			Hint: "redferry has applied nothing of that unit: load the script into the target with SCRIPT LOAD, " +
				"then run the same command again",
		}
	}
	if a.conn.scripts == nil {
		a.conn.scripts = map[string]bool{}
	}
	a.conn.scripts[sha] = true
	return nil
}

var (
	shiftScript = []byte(formScript)
	shiftAll    = argumentsBelow(distant) // while the target is not settled
)

// shiftArguments are those of shiftScript: what the script has set is real, and is to be shifted below a moment.
func shiftArguments(below int64) [][]byte {
	if below == distant {
		return shiftAll
	}
	return argumentsBelow(below)
}

func argumentsBelow(below int64) (args [][]byte) {
	for _, arg := range (split{below: below}).arguments(0, 0, "0", 0) {
		args = append(args, []byte(arg))
	}
	return args
}

// notTheScript are parts of a failed script's error that say: it failed because of this target, and
// not as it did at the source.
var notTheScript = []string{
	"NOSCRIPT", "OOM ", "READONLY ", "MISCONF ", "NOREPLICAS ", "NOPERM ", "ACL failure", "can't run this command",
	"can't access", "command called from", "not allowed from script",
}

// failedThere parts the failures that the source has met as well from the others. A source sends a
// script that has failed half-way, for what it wrote before that.
func failedThere(b *batch, failed []failure, log *zerolog.Logger) (rest []failure) {
	for _, f := range failed {
		if b.cmds[f.ref].expect != mayFail || !scriptFailed(f.err) {
			rest = append(rest, f)
			continue
		}
		log.Debug().Str("command", b.describe(f.ref)).AnErr("reply", f.err).
			Msg("a script has failed, as it did at the source")
	}
	return rest
}

func scriptFailed(err error) bool {
	text := err.Error()
	for _, part := range notTheScript {
		if strings.Contains(text, part) {
			return false
		}
	}
	return true
}

// loadScripts loads scripts of the snapshot into the target.
func (l *loader) loadScripts(ctx context.Context, s *session, texts [][]byte) error {
	if len(texts) == 0 {
		return nil
	}
	l.a.queue.mu.Lock()
	for _, text := range texts {
		l.a.scripts.add(text)
	}
	l.a.queue.mu.Unlock()
	v, err := s.run(ctx, func(p *pipeline) {
		for i, text := range texts {
			p.queue(0, p.b.ScriptLoad().Script(string(text)).Build(), i)
		}
	})
	if err != nil {
		return fmt.Errorf("load the source's scripts: %w", err)
	}
	if v.unguarded {
		return l.a.diverge(ctx, v)
	}
	for _, f := range v.failed {
		sum := sha1.Sum(texts[f.ref])
		raw := [][]byte{[]byte("SCRIPT"), []byte("LOAD"), texts[f.ref]}
		if err := l.refuse(ctx, 0, raw, l.r.Offset(), "script "+hex.EncodeToString(sum[:]), f.err); err != nil {
			return err
		}
	}
	if !v.committed && len(v.failed) < len(texts) { // the others were not loaded beside them
		rest := texts[:0:0]
		for i, text := range texts {
			if !failedAt(v.failed, i) {
				rest = append(rest, text)
			}
		}
		return l.loadScripts(ctx, s, rest)
	}
	return nil
}

func failedAt(failed []failure, ref int) bool {
	for _, f := range failed {
		if f.ref == ref {
			return true
		}
	}
	return false
}
