package replica

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"sync"
	"time"
)

// sourceWrites stops the writes to a source: for a moment, by a pause that has to be renewed, and then for good, by asking for more replicas than there are
// (protocol 0: what waits in a pause is refused, too, when it ends). What the source's settings were is on disk before they are changed.
type sourceWrites struct {
	src     *source
	server  Endpoint
	path    string // of the note
	info    map[string]string
	primary bool // it takes writes itself, and does not only pass its own primary's on

	stop  func()        // ends the renewing; nil when nothing is paused
	ended chan struct{} // closed when it has ended
	mu    sync.Mutex
	until time.Time // the source's writes are paused at least until then
}

const (
	pauseSpan  = 4 * time.Second        // how long a pause lasts without being renewed: as long as a source waits for a process that has died
	pauseRenew = 500 * time.Millisecond // how often it is
	// manyReplicas is what min-replicas-to-write becomes: more than a source has.
	manyReplicas = "1000000"
	// defaultMaxLag is for min-replicas-max-lag where it is 0, with which a source does not count its replicas.
	defaultMaxLag = "10"

	minReplicas = "min-replicas-to-write"
	maxLag      = "min-replicas-max-lag"
)

// dialWrites finds the source's server, connects to it, and asks it what it is.
func dialWrites(ctx context.Context, source Endpoint, path string) (*sourceWrites, error) {
	src, server, info, err := openSource(ctx, source)
	if err != nil {
		return nil, err
	}
	return &sourceWrites{src: src, server: server, path: path, info: info, primary: info["role"] == "master"}, nil
}

// close lets go of the source. What is paused runs out by itself.
func (w *sourceWrites) close() {
	w.endRenewing()
	w.src.close()
}

// admit refuses a cutover that the source cannot have.
func (w *sourceWrites) admit(ctx context.Context, c *Cutover) error {
	if w.src.blind {
		return &Stop{
			Kind: Config, Reason: fmt.Sprintf("the source %s does not permit INFO, so that nobody can tell when the target has all", w.server),
			Hint: "ACL SETUSER <user> +info on the source",
		}
	}
	if err := w.current(); err != nil {
		return err
	}
	if err := w.open(ctx, c); err != nil || c.WritesStopped {
		return err
	}
	why := ""
	switch {
	case !w.primary:
		why = "is a replica, and its primary's writes cannot be stopped from here"
	case !canStopWrites(w.info["redis_version"]):
		why = "is older than Redis 6.2.7: it cannot pause writes alone, or lets scripts write that it should refuse"
	default:
		if err := w.notPaused(ctx); err != nil {
			return err
		}
		return w.permitted(ctx, c)
	}
	return &Stop{
		Kind: Decide, Reason: fmt.Sprintf("the source %s %s", w.server, why),
		Hint: "stop the applications that write to it, and say so with --source-writes=stopped",
	}
}

// current is an error when the source is a replica that does not have what its primary has acknowledged: it has lost it, or gets a snapshot of it.
func (w *sourceWrites) current() error {
	if w.primary || w.info["master_link_status"] == "up" && w.info["master_sync_in_progress"] == "0" {
		return nil
	}
	return &Stop{
		Kind: Decide, Reason: fmt.Sprintf("the source %s is a replica without a link to its primary, and may lack what that has acknowledged", w.server),
		Hint: "wait until INFO replication there says master_link_status:up",
	}
}

// open is an error when the source refuses writes still since an earlier cutover, and is to be left as it is: then nobody could write to it, whatever is said of it.
func (w *sourceWrites) open(ctx context.Context, c *Cutover) error {
	if c.After == SourceRefuses {
		return nil
	}
	note, err := readCutoverNote(w.path)
	if err != nil || note == nil || !note.Refuses || !note.of(w) {
		return err
	}
	if refuses, err := w.refuses(ctx); err != nil || !refuses {
		return err
	}
	return &Stop{
		Kind: Decide, Reason: fmt.Sprintf("the source %s refuses writes since the cutover of %s", w.server, note.Since.Format(time.RFC3339)),
		Hint: "redferry cutover --undo --source URL lets it take them again; or leave --source-after out",
	}
}

// canStopWrites tells whether a server of this redis_version has CLIENT PAUSE … WRITE, since 6.2.0, and refuses what scripts write as well, since 6.2.7. Valkey says 7.2.4.
func canStopWrites(version string) bool {
	var v [3]int
	if n, err := fmt.Sscanf(version, "%d.%d.%d", &v[0], &v[1], &v[2]); n < 3 || err != nil {
		return false
	}
	return slices.Compare(v[:], []int{6, 2, 7}) >= 0
}

// notPaused is an error when somebody else has paused the source: a pause knows no owner, and to end ours would end his. One that will be over soon is waited for; it may be
// of a process of ours that has died. Servers tell since Valkey 8.1; of others nothing is known.
func (w *sourceWrites) notPaused(ctx context.Context) error {
	for most := time.Now().Add(pauseSpan); ; {
		info, err := w.src.info(ctx)
		if err != nil {
			return err
		}
		why := info["paused_reason"]
		if why == "" || why == "none" {
			return nil
		}
		ms, err := strconv.Atoi(info["paused_timeout_milliseconds"])
		over := time.Now().Add(time.Duration(ms)*time.Millisecond + time.Millisecond)
		if err != nil || over.After(most) {
			return &Stop{
				Kind: Decide, Reason: fmt.Sprintf("the source %s is paused already, by %s, for another %d ms: a cutover would end that, too", w.server, why, ms),
				Hint: "wait until that is over, or CLIENT UNPAUSE on the source; or, when it is what stops the writes, --source-writes=stopped",
			}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Until(over)):
		}
	}
}

// permitted asks for all that a cutover wants of the source, in a way that changes nothing: a right that is missing is not to show when the target has been settled, and clients wait.
func (w *sourceWrites) permitted(ctx context.Context, c *Cutover) error {
	if err := w.pauseFor(ctx, time.Millisecond); err != nil {
		return err
	}
	if c.After != SourceRefuses {
		return nil
	}
	now, err := w.config(ctx)
	if err == nil {
		err = w.setOne(ctx, minReplicas, now[minReplicas])
	}
	return w.forbids(err)
}

// pauseFor pauses the source's writes once.
func (w *sourceWrites) pauseFor(ctx context.Context, span time.Duration) error {
	err := forbidden(w.src.client.Do(ctx, w.src.client.B().ClientPause().Timeout(span.Milliseconds()).Write().Build()).Error())
	if errors.Is(err, errForbidden) {
		return &Stop{
			Kind: Decide, Reason: fmt.Sprintf("the source %s does not let its writes be paused", w.server), Err: err,
			Hint: "ACL SETUSER <user> +client|pause +client|unpause on the source; or stop its clients yourself, and say so with --source-writes=stopped",
		}
	}
	if err != nil {
		return fmt.Errorf("pause the writes of the source %s: %w", w.server, err)
	}
	return nil
}

// pause stops the source's writes until unpause, close, or most is over, and renews that meanwhile: a process that dies leaves a source that goes on after pauseSpan.
func (w *sourceWrites) pause(ctx context.Context, most time.Duration) error {
	end := time.Now().Add(most)
	if err := w.extend(ctx, end); err != nil {
		return err
	}
	renewing, stop := context.WithCancel(context.WithoutCancel(ctx))
	w.stop, w.ended = stop, make(chan struct{})
	go func() {
		defer close(w.ended)
		_ = every(renewing, pauseRenew, func() error {
			_ = w.extend(renewing, end) // the next one may succeed; until tells
			return nil
		})
	}()
	return nil
}

// extend pauses for another pauseSpan, and not beyond end. The server never makes a pause shorter.
func (w *sourceWrites) extend(ctx context.Context, end time.Time) error {
	span := min(pauseSpan, time.Until(end))
	if span <= 0 {
		return nil
	}
	asked := time.Now()
	if err := w.pauseFor(ctx, span); err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.until = asked.Add(span)
	return nil
}

// stillPaused is an error when the source may have taken writes since pause: this process stood still for too long, or the source did not answer.
func (w *sourceWrites) stillPaused() error {
	if w.stop == nil {
		return nil
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if left := time.Until(w.until); left < pauseSpan/4 {
		return fmt.Errorf("the pause of the source's writes could not be renewed in time: %v are left of it", left)
	}
	return nil
}

// pausedUntil is when the pause ends unless it is renewed.
func (w *sourceWrites) pausedUntil() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.until
}

func (w *sourceWrites) endRenewing() {
	if w.stop != nil {
		w.stop()
		<-w.ended
		w.stop = nil
	}
}

// unpause lets the source's clients go on. An error is no matter: the pause ends by itself.
func (w *sourceWrites) unpause() {
	if w.stop == nil {
		return
	}
	w.endRenewing()
	ctx, cancel := context.WithTimeout(context.Background(), limitsTimeout)
	defer cancel()
	_ = w.src.client.Do(ctx, w.src.client.B().ClientUnpause().Build()).Error()
}

// becomes says what the source is left as.
func (w *sourceWrites) becomes(after SourceAfter) string {
	switch {
	case !w.primary:
		return "is a replica, and goes on following its primary"
	case after == SourceRefuses:
		return "refuses writes (" + minReplicas + " is " + manyReplicas + "); cutover --undo re-opens it"
	case after == SourcePaused:
		return "has its writes wait for the rest of the pause, and carries them out then"
	}
	return "takes writes as before, which the target does not get"
}

// note begins one.
func (w *sourceWrites) note() *cutoverNote {
	return &cutoverNote{Addr: w.server.Addr, RunID: w.info["run_id"], Since: time.Now().UTC()}
}

// leave notes a cutover that leaves the source's settings as they are. What an earlier one has changed, there or at another server, is still needed.
func (w *sourceWrites) leave() error {
	earlier, err := readCutoverNote(w.path)
	if err == nil && earlier != nil && earlier.Refuses {
		err = earlier.setAside(w.path)
	}
	if err != nil {
		return err
	}
	return w.note().write(w.path)
}

// refuse makes the source refuse writes. When it returns nil no write is acknowledged any more.
func (w *sourceWrites) refuse(ctx context.Context, force bool) error {
	note, err := readCutoverNote(w.path)
	if err != nil {
		return err
	}
	now, err := w.config(ctx)
	if err != nil {
		return w.forbids(err)
	}
	if note != nil && !note.of(w) {
		if err := note.setAside(w.path); err != nil {
			return err
		}
		note = nil
	}
	if note != nil && note.Refuses && !note.Done && refusing(now) { // an earlier process has come this far
		return nil
	}
	was := note.without(now)
	note = w.note()
	note.Refuses, note.MinReplicas, note.MaxLag, note.Force = true, was[minReplicas], was[maxLag], force
	if err := note.write(w.path); err != nil {
		return err
	}
	lag := now[maxLag]
	if lag == "0" {
		lag = defaultMaxLag
	}
	if err := w.set(ctx, now, map[string]string{maxLag: lag, minReplicas: manyReplicas}, maxLag, minReplicas); err != nil { // with a lag of 0 the number means nothing
		return errors.Join(w.forbids(err), w.reopen())
	}
	return nil
}

// refuses tells whether the source refuses writes.
func (w *sourceWrites) refuses(ctx context.Context) (bool, error) {
	now, err := w.config(ctx)
	return err == nil && refusing(now), w.forbids(err)
}

// refusing tells whether settings make a source refuse writes as refuse does it.
func refusing(now map[string]string) bool {
	return now[minReplicas] == manyReplicas && now[maxLag] != "0"
}

// reopen puts back what refuse has changed and nobody else since, and forgets it. It works though contexts have ended, for five seconds at most.
func (w *sourceWrites) reopen() error {
	note, err := readCutoverNote(w.path)
	if err != nil || note == nil {
		return err
	}
	if !note.Refuses {
		return os.Remove(w.path)
	}
	ctx, cancel := context.WithTimeout(context.Background(), limitsTimeout)
	defer cancel()
	now, err := w.config(ctx)
	if err == nil {
		err = w.set(ctx, now, note.without(now), minReplicas, maxLag)
	}
	if err != nil {
		return fmt.Errorf("let the source take writes again; by hand: %s: %w", note.byHand(), err)
	}
	if err := os.Remove(w.path); err != nil {
		return fmt.Errorf("forget that the source refused writes: %w", err)
	}
	return nil
}

// config is what the source's two settings are.
func (w *sourceWrites) config(ctx context.Context) (_ map[string]string, err error) {
	now := map[string]string{}
	for _, name := range []string{minReplicas, maxLag} {
		if now[name], err = w.src.config(ctx, name); err != nil {
			return nil, err
		}
	}
	return now, nil
}

// set makes settings what they are to be, in the order of their names; what they are already is left alone.
func (w *sourceWrites) set(ctx context.Context, now, to map[string]string, names ...string) error {
	for _, name := range names {
		if now[name] == to[name] {
			continue
		}
		if err := w.setOne(ctx, name, to[name]); err != nil {
			return err
		}
	}
	return nil
}

func (w *sourceWrites) setOne(ctx context.Context, name, value string) error {
	if err := w.src.client.Do(ctx, w.src.client.B().ConfigSet().ParameterValue().ParameterValue(name, value).Build()).Error(); err != nil {
		return fmt.Errorf("set the source's %s: %w", name, forbidden(err))
	}
	return nil
}

// forbids makes a Stop of a source's no; other errors pass through.
func (w *sourceWrites) forbids(err error) error {
	if !errors.Is(err, errForbidden) {
		return err
	}
	return &Stop{
		Kind: Decide, Reason: fmt.Sprintf("the source %s cannot be made to refuse writes", w.server), Err: err,
		Hint: "ACL SETUSER <user> +config|get +config|set on the source; or --source-after=paused or open, once its clients are stopped",
	}
}

// UndoCutover lets a source take writes again that a cutover has made refuse them, as the note in path says. done tells whether there was anything to undo.
func UndoCutover(ctx context.Context, source Endpoint, path string) (done bool, err error) {
	note, err := readCutoverNote(path)
	if err != nil || note == nil || !note.Refuses {
		return false, err
	}
	w, err := dialWrites(ctx, source, path)
	if err != nil {
		return false, err
	}
	defer w.close()
	if !note.of(w) {
		return false, &Stop{
			Kind: Decide, Reason: fmt.Sprintf("it is %s that refuses writes since %s, and %s is another server", note.Addr, note.Since.Format(time.RFC3339), w.server),
			Hint: fmt.Sprintf("give that one as --source; or run %s there, and remove %s", note.byHand(), path),
		}
	}
	return true, w.reopen()
}
