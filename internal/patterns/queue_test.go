package patterns

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hibiken/asynq"
	"github.com/redis/go-redis/v9"
)

// An application puts tasks into a queue of asynq and carries them out: at once, later, again after
// a failure, by a schedule, and only once at a time.
//
// Each task whose Enqueue was acknowledged is carried out. None is carried out again after the
// server has acknowledged to asynq that it is done. A task that is done while the source refuses
// writes is not acknowledged, and asynq has it carried out again at the target when its lease is
// over: asynq promises at least once, and no more than that.
func TestQueue(t *testing.T) {
	t.Parallel()
	for _, j := range []journey{
		{from: "redis-6.0", to: "redis-8.0"},
		{from: "redis-8.0", to: "redis-8.0", kill: true},
		{from: "valkey-9", to: "valkey-9"},
	} {
		t.Run(j.from+" to "+j.to, func(t *testing.T) {
			t.Parallel()
			m := newMigration(t, j.from, j.to)
			w := &workshop{t: t, tasks: map[string]*task{}}
			j.work = w.work
			j.before = func() { w.before(m) }
			m.travel(j)
			w.after(m)
			w.compare()
		})
	}
}

const queue = "default"

// workshop is the ledger of tasks, by their IDs.
type workshop struct {
	t *testing.T

	mu    sync.Mutex
	last  int
	tasks map[string]*task
}

// task is what is known of one outside of the servers.
type task struct {
	kind     string
	enqueued answer
	failed   int       // times that the handler returned an error
	finished int       // times that it did not
	done     time.Time // when the server acknowledged that; zero before
	unheard  int       // times that it did not
}

// of is the task with an ID. The caller has the lock.
func (w *workshop) of(id string) *task {
	if w.tasks[id] == nil {
		w.tasks[id] = &task{enqueued: lost} // a scheduled one is known by its ID only when it is enqueued
	}
	return w.tasks[id]
}

// witness is a hook of go-redis: it sees what a server answers when asynq says that a task is done,
// which is a script whose keys begin with those below (doneCmd in asynq's rdb.go).
type witness struct {
	*workshop
	at *site
}

func (w witness) DialHook(next redis.DialHook) redis.DialHook { return next }

func (w witness) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}

func (w witness) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		err := next(ctx, cmd)
		args := cmd.Args()
		text := func(i int) string { return fmt.Sprint(args[i]) }
		if len(args) < 8 || !strings.HasPrefix(cmd.Name(), "eval") ||
			!strings.HasSuffix(text(3), ":active") || !strings.Contains(text(6), ":processed:") {
			return err
		}
		_, id, _ := strings.Cut(text(5), ":t:")
		w.mu.Lock()
		defer w.mu.Unlock()
		switch {
		case err == nil:
			w.of(id).done = time.Now()
			w.at.acked.Add(1)
		case !redis.HasErrorPrefix(err, "NOSCRIPT"): // asynq says it again with the script's text
			w.of(id).unheard++
		}
		return err
	}
}

// client does not try again by itself: a task that was enqueued and done would be enqueued again.
func (w *workshop) client(at *site) *redis.Client {
	client := redis.NewClient(&redis.Options{Addr: at.addr, MaxRetries: -1, ReadTimeout: time.Second})
	client.AddHook(witness{w, at})
	return client
}

// quietly is a log of asynq's.
type quietly struct{}

func (quietly) Debug(...any) {}
func (quietly) Info(...any)  {}
func (quietly) Warn(...any)  {}
func (quietly) Error(...any) {}
func (quietly) Fatal(...any) {}

// serve starts a server of asynq that carries tasks out. Long ones take until ctx ends.
func (w *workshop) serve(ctx context.Context, client *redis.Client) *asynq.Server {
	s := asynq.NewServerFromRedisClient(client, asynq.Config{
		Concurrency: 10, ShutdownTimeout: 30 * time.Second, Logger: quietly{},
		TaskCheckInterval: 20 * time.Millisecond, DelayedTaskCheckInterval: 100 * time.Millisecond,
		RetryDelayFunc: func(int, error, *asynq.Task) time.Duration { return 100 * time.Millisecond },
	})
	handler := func(of context.Context, t *asynq.Task) error { return w.carryOut(ctx, of, t.Type()) }
	if err := s.Start(asynq.HandlerFunc(handler)); err != nil {
		w.t.Errorf("start asynq: %v", err)
	}
	return s
}

func (w *workshop) carryOut(ctx, of context.Context, kind string) error {
	id, _ := asynq.GetTaskID(of)
	w.mu.Lock()
	k := w.of(id)
	k.kind = kind
	if !k.done.IsZero() {
		w.t.Errorf("%s %s is carried out again, %v after it was acknowledged as done", kind, id, time.Since(k.done))
	}
	w.mu.Unlock()
	tries, _ := asynq.GetRetryCount(of)
	if kind == "long" && tries == 0 {
		<-ctx.Done()
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if kind == "retried" && tries == 0 {
		k.failed++
		return errors.New("not yet")
	}
	k.finished++
	return nil
}

func (w *workshop) work(ctx context.Context, at *site) {
	client := w.client(at)
	defer client.Close()
	server := w.serve(ctx, client)
	schedule := asynq.NewSchedulerFromRedisClient(client, &asynq.SchedulerOpts{
		Logger: quietly{},
		PostEnqueueFunc: func(info *asynq.TaskInfo, err error) {
			if err == nil {
				w.mu.Lock()
				defer w.mu.Unlock()
				w.of(info.ID).enqueued = acknowledged
			}
		},
	})
	if _, err := schedule.Register("@every 1s", asynq.NewTask("scheduled", nil)); err != nil {
		w.t.Error(err)
	}
	if err := schedule.Start(); err != nil {
		w.t.Error(err)
	}
	tasks := asynq.NewClientFromRedisClient(client)
	for n := 0; ctx.Err() == nil; n++ {
		time.Sleep(3 * time.Millisecond)
		switch n % 4 {
		case 0:
			w.enqueue(tasks, at, "delayed", asynq.ProcessIn(time.Duration(n%9)*400*time.Millisecond))
		case 1:
			w.enqueue(tasks, at, "retried")
		case 2:
			w.enqueue(tasks, at, "unique", asynq.Unique(time.Minute))
		default:
			w.enqueue(tasks, at, "plain")
		}
	}
	schedule.Shutdown()
	server.Shutdown()
}

// enqueue puts a task into the queue whose payload is its ID.
func (w *workshop) enqueue(tasks *asynq.Client, at *site, kind string, options ...asynq.Option) (id string) {
	w.mu.Lock()
	w.last++
	id = fmt.Sprint("task-", w.last)
	w.mu.Unlock()
	_, err := tasks.Enqueue(asynq.NewTask(kind, []byte(id)), append(options, asynq.TaskID(id))...)
	w.mu.Lock()
	defer w.mu.Unlock()
	k := w.of(id)
	k.kind, k.enqueued = kind, judge(err)
	if unexpected(err) {
		w.t.Errorf("enqueue %s: %v", id, err)
	}
	if err == nil {
		at.acked.Add(1)
	}
	return id
}

// before enqueues what is under way during the cutover: tasks that end only when the application
// moves, and one that may be there only once.
func (w *workshop) before(m *migration) {
	client := w.client(m.old)
	defer client.Close()
	tasks := asynq.NewClientFromRedisClient(client)
	for range 3 {
		w.enqueue(tasks, m.old, "long")
	}
	inspector := asynq.NewInspectorFromRedisClient(client)
	until(w.t, "long tasks are under way", func() bool {
		active, err := inspector.ListActiveTasks(queue)
		n := 0
		for _, a := range active {
			if a.Type == "long" {
				n++
			}
		}
		return err == nil && n == 3
	})
	_, err := tasks.Enqueue(only(), asynq.Unique(time.Hour), asynq.TaskID("only"), asynq.ProcessIn(time.Hour))
	if err != nil {
		w.t.Fatal(err)
	}
	w.mu.Lock()
	w.of("only").enqueued = acknowledged
	w.mu.Unlock()
}

func only() *asynq.Task { return asynq.NewTask("only", []byte("the same")) }

// after has the target carry out the rest.
func (w *workshop) after(m *migration) {
	client := w.client(m.new)
	defer client.Close()
	ctx := context.Background()
	tasks := asynq.NewClientFromRedisClient(client)
	if _, err := tasks.Enqueue(only(), asynq.Unique(time.Hour)); !errors.Is(err, asynq.ErrDuplicateTask) {
		w.t.Errorf("a unique task of the source can be enqueued again at the target: %v", err)
	}
	inspector := asynq.NewInspectorFromRedisClient(client)
	if err := inspector.RunTask(queue, "only"); err != nil {
		w.t.Errorf("run the unique task: %v", err)
	}
	// asynq waits for a minute before it takes over what a server that is gone had under way: for
	// the lease, and as long again. The test makes the leases that much older.
	lease := "asynq:{" + queue + "}:lease"
	under, err := client.ZRange(ctx, lease, 0, -1).Result()
	if err != nil {
		w.t.Fatal(err)
	}
	for _, id := range under {
		over := redis.Z{Score: float64(time.Now().Add(-31 * time.Second).Unix()), Member: id}
		if err := client.ZAddXX(ctx, lease, over).Err(); err != nil {
			w.t.Fatal(err)
		}
	}
	stopped, cancel := context.WithCancel(ctx)
	cancel()
	server := w.serve(stopped, client)
	defer server.Shutdown()
	until(w.t, "the target's queue is empty", func() bool {
		info, err := inspector.GetQueueInfo(queue)
		return err == nil && info.Active+info.Pending+info.Scheduled+info.Retry == 0
	})
	if _, err := tasks.Enqueue(only(), asynq.Unique(time.Hour), asynq.ProcessIn(time.Hour)); err != nil {
		w.t.Errorf("a unique task that is done cannot be enqueued again at the target: %v", err)
	}
	if info, err := inspector.GetQueueInfo(queue); err != nil || info.Archived != 0 {
		w.t.Errorf("asynq has given tasks up: %+v, %v", info, err)
	}
}

// compare compares the ledger with what was carried out.
func (w *workshop) compare() {
	w.mu.Lock()
	defer w.mu.Unlock()
	sum, again := map[string]int{}, map[string]int{}
	for id, k := range w.tasks {
		if k.enqueued == acknowledged {
			sum[k.kind]++
		}
		switch {
		case k.enqueued == acknowledged && (k.finished == 0 || k.done.IsZero() && k.unheard == 0):
			w.t.Errorf("%s %s was enqueued, and carried out %d times, without an end", k.kind, id, k.finished)
		case k.enqueued == refused && k.finished+k.failed > 0:
			w.t.Errorf("%s %s was carried out, and enqueuing it was refused", k.kind, id)
		case k.finished > 1+k.unheard:
			w.t.Errorf("%s %s was carried out %d times, and only %d answers were lost", k.kind, id, k.finished, k.unheard)
		case k.kind == "retried" && k.finished > 0 && k.failed == 0:
			w.t.Errorf("%s %s was never tried before", k.kind, id)
		}
		if k.finished > 1 {
			again[k.kind]++
		}
	}
	for _, kind := range []string{"plain", "delayed", "retried", "unique", "scheduled", "long", "only"} {
		if sum[kind] == 0 {
			w.t.Errorf("no task was %s", kind)
		}
	}
	w.t.Logf("enqueued %v; carried out again %v", sum, again)
}
