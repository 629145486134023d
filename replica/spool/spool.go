package spool

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

var (
	// ErrDropped says that what was asked for, or appended to, is not in the spool any more.
	ErrDropped = errors.New("no longer in the spool")
	// ErrUnreadable says that the disk does not give back what was written to it.
	ErrUnreadable = errors.New("the spool cannot be read")
	// ErrInterrupted ends a read after [Reader.Interrupt].
	ErrInterrupted = errors.New("interrupted")
	// ErrClosed says that the spool, or the reader, is closed.
	ErrClosed = errors.New("the spool is closed")
)

const (
	defaultMemory = 4 << 20 // of a spool without a folder
	defaultMax    = 1 << 30 // where nobody knows how much space is free
	starveFor     = 5 * time.Second
	leastMax      = 16 << 20        // where it follows the disk: a disk that is full now has room later
	reserve       = int64(16 << 20) // of the file system's free space stays free
	least         = int64(1 << 20)  // has to be free for something new
)

// Config says where a spool is and how much it may hold.
type Config struct {
	// Dir is the folder, made if it is missing. Its files are this spool's alone; the caller holds a lock for it. With "" all is kept in memory,
	// and nothing longer than until it was read.
	Dir string
	// Place names the machine and the folder, so that a copy elsewhere is not taken for the original. The spool adds the folder's inode.
	Place string
	// Max bounds the bytes held. 0 means 80 % of what is free on the file system and what the spool has, looked at each second, and at least 16 MiB; in
	// memory, 4 MiB.
	Max int64
	// Keep is how long a segment of the stream stays after it was passed, unless room is needed.
	Keep time.Duration
	// Segment is the bytes of a segment; 0 means a sixteenth of Max, within 1 MiB and 64 MiB; in memory, an eighth.
	Segment int64
}

// Spool is one spool. One goroutine at a time calls the writer's methods: BeginSnapshot, EndSnapshot, BeginStream, Continue, CutBack and
// Append; any goroutine may call the others at any time.
type Spool struct {
	disk     disk
	volatile bool // in memory: nothing outlives the process, and what was read is passed
	place    string
	boot     string // "" if nobody knows: then only what is on disk is ever believed
	follows  bool   // max is a share of the disk
	fixed    int64  // Config.Segment
	keep     time.Duration
	patience time.Duration // with a reader that starves while the spool is full
	found    string

	stop, done chan struct{} // of the goroutine that tends the spool
	kick       chan struct{} // wakes it before its second is over

	// Locks, in this order. structure is held while the files change their meaning, and while the state is written; freeing while files are
	// removed; mu for what follows it, and during no input or output.
	structure sync.Mutex
	freeing   sync.Mutex
	mu        sync.Mutex
	changed   sync.Cond // what somebody may wait for: bytes, room, another description, the end
	description
	chain       atomic.Pointer[[]link] // the description's Links, for those who do not hold mu
	rdb, stream part
	max         int64
	segment     int64 // bytes of the segments that are begun from now on
	epoch       int   // counts the times that bytes were taken back: by Begin, Drop and CutBack
	used        int64
	space       int64 // free on the file system when last looked at, less what was written since; -1: unknown
	blocked     bool  // Append waits for room
	beyond      bool  // and need not, since a reader starves: until something is freed
	unsaved     bool  // the state on disk is older than what it could say
	closed      bool
	trouble     error // what went wrong in the background, for the next Append to tell
	readers     []*Reader

	scratch [markSize]byte // the writer's
}

// part is the snapshot's segments or the stream's, oldest first and without a gap. The last one is written to.
type part struct {
	segments []*segment
	passed   int64 // everything below was passed; -1 at first
}

func (p *part) first() int64 { return p.segments[0].first }
func (p *part) end() int64   { return p.last().end() }

func (p *part) last() *segment {
	if len(p.segments) == 0 {
		return nil
	}
	return p.segments[len(p.segments)-1]
}

// pop takes the i-th segment away.
func (p *part) pop(i int) *segment {
	g := p.segments[i]
	p.segments = slices.Delete(p.segments, i, i+1)
	g.gone = true
	return g
}

func (p *part) bytes() int64 {
	if len(p.segments) == 0 {
		return 0
	}
	return p.end() - p.first()
}

// Open opens the spool and reads what is there. What cannot be trusted it removes; [Spool.Found] tells. The error is about the folder itself, or
// about files of a newer version of redferry, which are left alone.
func Open(c Config) (*Spool, error) {
	if c.Dir == "" {
		s := configure(c, newMemory(), "")
		s.volatile = true
		s.start()
		return s, nil
	}
	if err := os.MkdirAll(c.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the spool's folder: %w", err)
	}
	d := folder{c.Dir}
	identity, err := d.identity()
	if err != nil {
		return nil, fmt.Errorf("open the spool: %w", err)
	}
	c.Place += " " + identity
	s, err := open(c, d, bootID())
	if err != nil {
		return nil, fmt.Errorf("open the spool in %s: %w", c.Dir, err)
	}
	s.start()
	return s, nil
}

// open is Open on any disk, without the goroutine.
func open(c Config, d disk, boot string) (*Spool, error) {
	s := configure(c, d, boot)
	if err := s.recover(); err != nil {
		return nil, errors.Join(err, s.closeFiles())
	}
	s.follows = c.Max == 0
	s.share()
	return s, nil
}

// share makes max, where it follows the disk, the spool's share of it. The caller holds mu, or has the spool for itself.
func (s *Spool) share() {
	if s.follows && s.space >= 0 {
		s.setMax(max((s.space+s.used)/5*4, leastMax), s.fixed)
	}
}

// configure makes an empty spool.
func configure(c Config, d disk, boot string) *Spool {
	s := &Spool{
		disk: d, place: c.Place, boot: boot, fixed: c.Segment, keep: c.Keep, patience: starveFor, space: d.free(),
		rdb: part{passed: -1}, stream: part{passed: -1},
		stop: make(chan struct{}), done: make(chan struct{}), kick: make(chan struct{}, 1),
	}
	s.changed.L = &s.mu
	if m, ok := d.(*memory); ok {
		if c.Max == 0 {
			c.Max = defaultMemory
		}
		if c.Segment == 0 {
			c.Segment = max(c.Max/8, 1)
		}
		m.size = headerSize + c.Segment
		s.keep, s.patience = 0, 0
	}
	if c.Max == 0 {
		c.Max = defaultMax
	}
	s.setMax(c.Max, c.Segment)
	return s
}

func (s *Spool) setMax(most, segment int64) {
	if segment == 0 {
		segment = min(max(most/16, 1<<20), 64<<20, max(most/4, 1))
	}
	s.max, s.segment = most, segment
}

// Found says in a sentence what Open found, and what it dropped and why; "" when there was nothing.
func (s *Spool) Found() string { return s.found }

// Close lets go of whoever waits, brings what there is to disk, and leaves it there for the next Open. Its error means that the next Open
// may find less.
func (s *Spool) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	s.closed = true
	s.changed.Broadcast()
	s.mu.Unlock()
	close(s.stop)
	<-s.done
	if err := errors.Join(s.flush(), s.closeFiles()); err != nil {
		return fmt.Errorf("close the spool: %w", err)
	}
	return nil
}

// closeFiles waits for whoever is still at the files.
func (s *Spool) closeFiles() error {
	s.structure.Lock()
	defer s.structure.Unlock()
	s.freeing.Lock()
	defer s.freeing.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	var err error
	for _, g := range slices.Concat(s.rdb.segments, s.stream.segments) {
		err = errors.Join(err, g.close())
	}
	return err
}

// Remove removes the files of a spool, of whatever version, and the folder if nothing else is in it. A folder that is not there is fine. The
// caller holds the lock.
func Remove(dir string) error {
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	d := folder{dir}
	if err := removeAll(d); err != nil {
		return fmt.Errorf("remove the spool in %s: %w", dir, err)
	}
	left, err := os.ReadDir(dir)
	if err == nil && len(left) == 0 {
		err = os.Remove(dir)
	}
	if err != nil {
		return fmt.Errorf("remove the spool in %s: %w", dir, err)
	}
	return nil
}

// bootID tells one boot of this machine from another; "" where the system does not say.
func bootID() string {
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(id))
}
