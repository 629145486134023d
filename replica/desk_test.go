package replica

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// Applying and receiving meet: whoever comes first waits, nobody reads while the spool is held, and a hold hears where the target is now.
func TestDesk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(func(Resume) bool { return true })
		var log []string
		attempt := func(offset int64) error {
			ctx, si, done, err := d.begin(t.Context())
			if err != nil {
				return err
			}
			defer done()
			log = append(log, "begins with "+si.RunID)
			if err := d.offer(ctx, Resume{From: Position{Offset: offset}}); err != nil {
				log = append(log, "recalled while it waits")
				return err
			}
			log = append(log, "reads")
			<-ctx.Done()
			log = append(log, "ends")
			return context.Cause(ctx)
		}
		go func() {
			for offset := int64(1); ; offset++ {
				if err := attempt(offset); !errors.Is(err, errRecalled) {
					return
				}
				time.Sleep(time.Second) // the drain
			}
		}()
		expect := func(want ...string) {
			t.Helper()
			synctest.Wait()
			if len(log) != len(want) {
				t.Fatalf("got %q, want %q", log, want)
			}
			for i := range want {
				if log[i] != want[i] {
					t.Fatalf("got %q, want %q", log, want)
				}
			}
			log = nil
		}
		expect()
		d.describe(SourceInfo{RunID: "a"})
		expect("begins with a")
		d.release()
		expect("reads")
		d.describe(SourceInfo{RunID: "a"})
		d.release()
		expect()

		resume, err := d.hold(t.Context())
		if err != nil || resume.From.Offset != 2 {
			t.Fatalf("hold: %+v, %v, want the second attempt's", resume, err)
		}
		expect("ends", "begins with a")
		d.describe(SourceInfo{RunID: "b"}) // what it was offered was said of another server
		time.Sleep(2 * time.Second)
		expect("recalled while it waits", "begins with b")
		d.release()
		expect("reads")

		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		d.held = false
		if _, err := d.hold(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a hold whose time is up: %v", err)
		}
		expect("ends")
		d.release()
		time.Sleep(2 * time.Second)
		expect("begins with b", "reads")
		d.describe(SourceInfo{RunID: "c"})
		time.Sleep(2 * time.Second)
		expect("ends", "begins with c")
		d.release()
		expect("reads")
	})
}
