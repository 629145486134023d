package replica

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"strings"
	"time"
)

// cutoverNote is on disk from right before the point of no return on: what a later process has to finish, and what undoing it takes.
type cutoverNote struct {
	Addr        string    `json:"addr"`
	RunID       string    `json:"run_id"`
	Refuses     bool      `json:"refuses"`                         // the source refuses writes because of us
	MinReplicas string    `json:"min_replicas_to_write,omitempty"` // what they were
	MaxLag      string    `json:"min_replicas_max_lag,omitempty"`
	Paused      bool      `json:"paused,omitempty"` // and its writes are paused until somebody ends that
	Since       time.Time `json:"since"`
	Force       bool      `json:"force"` // the operator wanted it whatever speaks against the target
	Done        bool      `json:"done"`  // the cutover has come to its end
	ReplID      string    `json:"replid,omitempty"`
	Offset      int64     `json:"offset,omitempty"` // that the target has all up to, from right before the tombstone on
}

// setAside keeps the note of another server under another name: what it was is still needed there.
func (n *cutoverNote) setAside(path string) error {
	err := n.write(path + "." + strings.NewReplacer("/", "_", ":", "_").Replace(n.Addr))
	if err == nil {
		err = remove(path)
	}
	if err != nil {
		return fmt.Errorf("set the note of another source's cutover aside: %w", err)
	}
	return nil
}

// without is what settings would be now if we had not changed them: what somebody has changed since stays as it is. n may be nil, for a source that was left alone.
func (n *cutoverNote) without(now map[string]string) map[string]string {
	was := maps.Clone(now)
	if n == nil || !n.Refuses {
		return was
	}
	if now[minReplicas] == manyReplicas {
		was[minReplicas] = n.MinReplicas
	}
	if n.MaxLag == "0" && now[maxLag] == defaultMaxLag { // else it was not changed
		was[maxLag] = n.MaxLag
	}
	return was
}

// byHand are the commands that put back what was changed.
func (n *cutoverNote) byHand() string {
	text := fmt.Sprintf("CONFIG SET %s %s", minReplicas, n.MinReplicas)
	if n.MaxLag == "0" {
		text += fmt.Sprintf(", CONFIG SET %s %s", maxLag, n.MaxLag) // before Redis 7.0 it takes one pair
	}
	if n.Paused {
		text += ", CLIENT UNPAUSE"
	}
	return text
}

// of tells whether the note is of this server: the same process, or one that was started again at its address.
func (n *cutoverNote) of(w *sourceWrites) bool {
	return n.RunID != "" && n.RunID == w.info["run_id"] || n.Addr == w.server.Addr
}

// RefusalRecord keeps in the target how the source was before it was made to refuse writes: a process on another machine has
// no other way to know. Any goroutine may ask; a note is for one at a time.
type RefusalRecord interface {
	// Refusal is what was noted last, by whichever process; "" for nothing.
	Refusal() string
	// NoteRefusal notes a text, or with "" that there is nothing to put back. It returns when the target has it.
	NoteRefusal(ctx context.Context, text string) error
}

// notes are the two places in which a cutover notes what it does to the source: a file here, and the target's record.
type notes struct {
	path   string
	record RefusalRecord // nil where the target is not asked
}

// read is the note; nil when there is none. What the target says counts; the file may know more of the same cutover, or what
// the target had not heard of when the process died.
func (n notes) read() (*cutoverNote, error) {
	here, err := readCutoverNote(n.path)
	if err != nil || n.record == nil || n.record.Refusal() == "" {
		return here, err
	}
	there, err := parseCutoverNote(n.record.Refusal())
	if err != nil {
		return nil, &Stop{
			Kind: Decide, Reason: "cannot read the field refusal of the target's checkpoint, which says how the source was before a cutover", Err: err,
			Hint: "look at the source's " + minReplicas + ", then remove the field",
		}
	}
	if here != nil && here.Addr == there.Addr && here.Since.Equal(there.Since) {
		return here, nil
	}
	return there, nil
}

// write notes it in both places, durably before it returns.
func (n notes) write(ctx context.Context, note *cutoverNote) error {
	if err := note.write(n.path); err != nil || n.record == nil {
		return err
	}
	text, err := json.Marshal(note)
	if err == nil {
		err = n.record.NoteRefusal(ctx, string(text))
	}
	if err != nil {
		return fmt.Errorf("note in the target that the source is to refuse writes: %w", err)
	}
	return nil
}

// forget has the target's record say that there is nothing to put back.
func (n notes) forget(ctx context.Context) error {
	if n.record == nil || n.record.Refusal() == "" {
		return nil
	}
	if err := n.record.NoteRefusal(ctx, ""); err != nil {
		return fmt.Errorf("note in the target that the source takes writes: %w", err)
	}
	return nil
}

// remove removes a file, which may not be there.
func remove(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// ByHand are the commands that put a source back to what a RefusalRecord's text says; "" for no such text.
func ByHand(refusal string) string {
	note, err := parseCutoverNote(refusal)
	if err != nil {
		return ""
	}
	return note.byHand() + " on " + note.Addr
}

func parseCutoverNote(text string) (*cutoverNote, error) {
	note := &cutoverNote{}
	if err := json.Unmarshal([]byte(text), note); err != nil {
		return nil, err
	}
	return note, nil
}

// readCutoverNote reads the note; nil when there is none.
func readCutoverNote(path string) (*cutoverNote, error) {
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read whether the source refuses writes: %w", err)
	}
	note, err := parseCutoverNote(string(text))
	if err != nil {
		return nil, &Stop{
			Kind: Decide, Reason: fmt.Sprintf("cannot read %s, which says how the source was before a cutover", path), Err: err,
			Hint: "look at the source's " + minReplicas + ", then remove the file",
		}
	}
	return note, nil
}

// write replaces the note, durably before it returns.
func (n *cutoverNote) write(path string) error {
	text, err := json.Marshal(n)
	if err == nil {
		err = replaceFile(path, append(text, '\n'))
	}
	if err != nil {
		return fmt.Errorf("note that the source is to refuse writes: %w", err)
	}
	return nil
}

// markPosition notes what the target has, for a later process that finds nothing but the tombstone.
func markPosition(path string, at Position) error {
	return amendCutoverNote(path, func(n *cutoverNote) { n.ReplID, n.Offset = at.ReplID, at.Offset })
}

// markDone notes that the cutover has come to its end; the rest of the note is for undoing it.
func markDone(path string) error {
	return amendCutoverNote(path, func(n *cutoverNote) { n.Done = true })
}

// amendCutoverNote changes a note, if there is one.
func amendCutoverNote(path string, change func(n *cutoverNote)) error {
	note, err := readCutoverNote(path)
	if err != nil || note == nil {
		return err
	}
	change(note)
	return note.write(path)
}

// CutoverDone tells whether a cutover, by its note in path, has come to its end, and was not undone.
func CutoverDone(path string) (bool, error) {
	note, err := readCutoverNote(path)
	return err == nil && note != nil && note.Done, err
}

// CutoverBegun tells whether a cutover, by its note in path, was begun and has neither come to its end nor was undone.
func CutoverBegun(path string) (bool, error) {
	note, err := readCutoverNote(path)
	return err == nil && note != nil && note.Refuses && !note.Done, err
}
