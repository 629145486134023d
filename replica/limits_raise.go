package replica

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// limitsTimeout bounds a raise or a restore: a source that does not answer must not hold up an end.
const limitsTimeout = 5 * time.Second

// limits lifts the source's client-output-buffer-limit for replicas while a snapshot is sent, and puts it back. What it was is on disk before it is
// lifted, so that a process which was killed meanwhile leaves nothing behind that the next one does not mend: its first step is restore, too.
//
// Each call has a connection of its own, because restore is needed most when the others are broken. One goroutine uses it.
type limits struct {
	source Endpoint
	path   string // of the file; its directory is there

	earlier bufferLimit // what raise found
	goal    int64       // the offset that drained waits for; 0 before it has seen one
}

// raisedLimit is one source whose limit is lifted, in the file. There is more than one only when a source went away before it was mended.
type raisedLimit struct {
	Addr  string    `json:"addr"`
	RunID string    `json:"run_id"`
	Limit string    `json:"limit"` // the earlier one, as CONFIG SET takes it
	Since time.Time `json:"since"`
}

// lifted is what a raised limit looks like.
func lifted(class string) bufferLimit { return bufferLimit{class: class} }

// of tells whether the record is of this server: the same process, or one that was started again at its address.
func (r raisedLimit) of(runID string, e Endpoint) bool {
	return r.RunID != "" && r.RunID == runID || r.Addr == e.Addr
}

// raise lifts the limit of replicas, and of nothing else, unless there is none. It may be called again. The error is a [Stop] where the source
// does not permit it: the operator has asked for it, and must know that it does not happen.
func (l *limits) raise(ctx context.Context) error {
	records, err := l.read()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, limitsTimeout)
	defer cancel()
	src, err := dialSource(l.source)
	if err != nil {
		return err
	}
	defer src.close()
	info, err := src.info(ctx)
	if err != nil {
		return err
	}
	if src.blind {
		return l.refused(fmt.Errorf("ask for INFO, which tells when to put it back: %w", errForbidden))
	}
	now, err := src.bufferLimit(ctx)
	if err != nil {
		return l.refused(err)
	}
	l.goal, l.earlier = 0, now
	ours := func(r raisedLimit) bool { return r.of(info["run_id"], l.source) }
	if now.unlimited() {
		if i := slices.IndexFunc(records, ours); i >= 0 { // raised before
			l.earlier, err = parseBufferLimit(records[i].Limit)
		}
		return err
	}
	others := slices.DeleteFunc(records, ours)
	if err := l.write(append(slices.Clone(others), raisedLimit{
		Addr: l.source.Addr, RunID: info["run_id"], Limit: now.String(), Since: time.Now().UTC(),
	})); err != nil {
		return err
	}
	if err := src.setBufferLimit(ctx, lifted(now.class)); err != nil {
		if err = l.refused(err); AsStop(err) != nil {
			err = errors.Join(err, l.write(others)) // nothing was lifted
		}
		return err
	}
	return nil
}

// restore puts the limit back if it is still as raise left it: a limit that somebody else has set since stays. Without a file it does nothing and asks
// nobody, so that each attempt may begin with it. It works though ctx has ended, for five seconds at most.
//
// After an error the file is still there and the next call tries again: it is worth a warning, and no reason to stop.
func (l *limits) restore(ctx context.Context) error {
	records, err := l.read()
	if err != nil || len(records) == 0 {
		return err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), limitsTimeout)
	defer cancel()
	elsewhere, err := l.putBack(ctx, records)
	if err != nil {
		return fmt.Errorf("put back the source's %s; until it is done by itself or by hand (%s), it has no limit for replicas: %w",
			bufferLimitName, setBufferLimit(records[0].Limit), err)
	}
	if err := l.write(elsewhere); err != nil {
		return err
	}
	if len(elsewhere) > 0 {
		r := elsewhere[0]
		return fmt.Errorf("%s has no limit for replicas since %s, when a snapshot was taken from it, and %s is another server: run %s there, and remove %s",
			r.Addr, r.Since.Format(time.RFC3339), l.source, setBufferLimit(r.Limit), l.path)
	}
	return nil
}

// putBack restores what is of this server, and gives the records of others.
func (l *limits) putBack(ctx context.Context, records []raisedLimit) (elsewhere []raisedLimit, err error) {
	src, err := dialSource(l.source)
	if err != nil {
		return nil, err
	}
	defer src.close()
	info, err := src.info(ctx)
	if err != nil {
		return nil, err
	}
	for _, r := range records {
		if !r.of(info["run_id"], l.source) {
			elsewhere = append(elsewhere, r)
			continue
		}
		earlier, err := parseBufferLimit(r.Limit)
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", l.path, err)
		}
		now, err := src.bufferLimit(ctx)
		if err != nil {
			return nil, err
		}
		if now != lifted(now.class) {
			continue
		}
		earlier.class = now.class // a restarted source may be of another version
		if err := src.setBufferLimit(ctx, earlier); err != nil {
			return nil, err
		}
	}
	return elsewhere, nil
}

// drained tells whether the limit may be put back: not with the last byte of the RDB, but when the writes that had piled up behind it have come, too.
// received is the offset that we have, source a master_repl_offset that was asked for after the RDB was complete; call it with each new one.
//
// While the pile came, another one grew. If that is more than the earlier limit allows, it is waited for as well.
func (l *limits) drained(received, source int64) bool {
	if l.goal == 0 {
		l.goal = source
	}
	if received < l.goal {
		return false
	}
	if allowed := l.earlier.smallest(); allowed > 0 && source-received >= 0 && uint64(source-received) >= allowed {
		l.goal = source
		return false
	}
	return true
}

// setBufferLimit sets the limit of one class of clients; the others stay as they are.
func (s *source) setBufferLimit(ctx context.Context, l bufferLimit) error {
	set := s.client.B().ConfigSet().ParameterValue().ParameterValue(bufferLimitName, l.String()).Build()
	if err := s.client.Do(ctx, set).Error(); err != nil {
		return fmt.Errorf("set the source's %s: %w", bufferLimitName, forbidden(err))
	}
	return nil
}

// refused makes a Stop of a source's no; other errors pass through.
func (l *limits) refused(err error) error {
	if !errors.Is(err, errForbidden) {
		return err
	}
	return &Stop{
		Kind: Config, Reason: fmt.Sprintf("--raise-source-limits cannot set the %s of the source %s", bufferLimitName, l.source), Err: err,
		Hint: "ACL SETUSER <user> +info +config|get +config|set on the source, or leave out --raise-source-limits and set the limit there by hand",
	}
}

// read gives the records of the file, none when there is no file.
func (l *limits) read() ([]raisedLimit, error) {
	text, err := os.ReadFile(l.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the source's earlier limits: %w", err)
	}
	records, err := parseRaised(text)
	if err != nil {
		return nil, fmt.Errorf("read the source's earlier limits in %s (look at the source's %s, then remove the file): %w", l.path, bufferLimitName, err)
	}
	return records, nil
}

// parseRaised reads the file. Each of its records has a limit that can be put back.
func parseRaised(text []byte) ([]raisedLimit, error) {
	var records []raisedLimit
	if err := json.Unmarshal(text, &records); err != nil {
		return nil, err
	}
	for _, r := range records {
		if _, err := parseBufferLimit(r.Limit); err != nil {
			return nil, err
		}
	}
	return records, nil
}

// write replaces the file, durably before it returns; without records it removes it. A removal that a power cut undoes does no harm: the limit
// is not lifted any more, and the file goes with the next look.
func (l *limits) write(records []raisedLimit) error {
	if len(records) == 0 {
		if err := os.Remove(l.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove the source's earlier limits: %w", err)
		}
		return nil
	}
	text, err := json.Marshal(records)
	if err != nil {
		return fmt.Errorf("note the source's earlier limits: %w", err)
	}
	if err := replaceFile(l.path, append(text, '\n')); err != nil {
		return fmt.Errorf("note the source's earlier limits: %w", err)
	}
	return nil
}

// replaceFile puts text in the place of a file: after a power cut there is the old one or the new one, whole.
func replaceFile(path string, text []byte) error {
	temp := path + ".tmp"
	f, err := os.OpenFile(temp, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(temp, path); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close()) // the name is durable, too
}
