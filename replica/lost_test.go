package replica

import (
	"context"
	"sync"
	"testing"
)

// recordDouble has one part unchecked until it was compared.
type recordDouble struct {
	mu       sync.Mutex
	compared int64 // times
}

var onlyPart = Range{1, 2}

func (d *recordDouble) Unchecked() []Range {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.compared > 0 {
		return nil
	}
	return []Range{onlyPart}
}

func (d *recordDouble) Keys(*Unit, func([]byte)) bool { return false }

func (d *recordDouble) Compared(context.Context, []Range, int64, []string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.compared++
	return nil
}

// What differs is counted once, though a cutover asks while the run is at it by itself.
func TestLostRepliesAreComparedByOneAtATime(t *testing.T) {
	t.Parallel()
	for range 500 {
		record := &recordDouble{}
		r := &run{lost: newLost(), RunConfig: RunConfig{Lost: &LostReplies{
			Record:  record,
			Compare: func(context.Context, []string) (int64, []string, error) { return 1, nil, nil },
		}}}
		r.lost.keys[onlyPart] = map[string]bool{"k": true}
		var both sync.WaitGroup
		for range 4 {
			both.Go(func() {
				if err := r.recheck(t.Context()); err != nil {
					t.Error(err)
				}
			})
		}
		both.Wait()
		if record.compared != 1 {
			t.Fatalf("it was compared %d times", record.compared)
		}
	}
}

func (d *recordDouble) Suspects() Suspects { return Suspects{} }

func (d *recordDouble) Cleared(context.Context, Suspects) error { return nil }
