package spool

import (
	"context"
	"slices"
)

// description is what a spool holds, as far as its segments cannot tell. What it points to is never changed in place.
type description struct {
	Generation string    `json:"generation"`
	Snapshot   *snapshot `json:"snapshot,omitempty"` // may be freed already: then there is no segment of it
	Links      []link    `json:"links,omitempty"`    // of the stream, oldest first; nil when there is no stream
}

// setDescription takes a description over. The caller holds mu, or is alone.
func (s *Spool) setDescription(d description) {
	s.description = d
	s.chain.Store(&d.Links)
}

// snapshot is the RDB of a full resync.
type snapshot struct {
	ID       string `json:"id"`
	At       int64  `json:"at"`
	Size     int64  `json:"size"`
	Complete bool   `json:"complete"`
}

// link is a replication ID of the stream's one history, and the offset from which on the history is called by it.
type link struct {
	ID   string `json:"id"`
	From int64  `json:"from"`
}

// Contents is what a spool holds.
type Contents struct {
	Snapshot bool   // there is an RDB, at least its end
	ID       string // of the RDB: the replication ID that +FULLRESYNC gave
	At       int64  // of the RDB: the offset that +FULLRESYNC gave, where the stream begins
	Size     int64  // of the RDB: its bytes as announced, -1 when that was unknown; as counted once it is complete
	RDBFirst int64  // the RDB's bytes [RDBFirst, RDBEnd) are here; those before were freed
	RDBEnd   int64
	Complete bool // the RDB has arrived whole

	// The stream: bytes (First, End] of the history whose newest replication ID is EndID. EndID is "" when there is no stream: the spool is
	// empty, or its RDB is not complete.
	EndID      string
	First, End int64
}

// Contents tells what is there now.
func (s *Spool) Contents() Contents {
	s.mu.Lock()
	defer s.mu.Unlock()
	var c Contents
	if n := s.Snapshot; n != nil && len(s.rdb.segments) > 0 {
		c = Contents{Snapshot: true, ID: n.ID, At: n.At, Size: n.Size, Complete: n.Complete, RDBFirst: s.rdb.first(), RDBEnd: s.rdb.end()}
	}
	if s.Links != nil {
		c.EndID, c.First, c.End = s.Links[len(s.Links)-1].ID, s.stream.first(), s.stream.end()
	}
	return c
}

// Holds tells whether the stream can be gone on with from a position: its offset lies in [First, End], and the history at this offset may be
// called by this ID. It may by the newest ID anywhere, and by an older one up to where the next one takes over.
func (s *Spool) Holds(id string, offset int64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.Links == nil || offset < s.stream.first() || offset > s.stream.end() {
		return false
	}
	for i, l := range s.Links {
		if l.ID == id && (i == len(s.Links)-1 || offset <= s.Links[i+1].From) {
			return true
		}
	}
	return false
}

// IDAt is the newest replication ID that a position at this offset may carry: of the last link that begins at or before it. It is "" when
// none does. It takes no lock: it is asked of every unit.
func (s *Spool) IDAt(offset int64) string {
	links := s.chain.Load()
	if links == nil {
		return ""
	}
	for _, l := range slices.Backward(*links) {
		if l.From <= offset {
			return l.ID
		}
	}
	return ""
}

// Whole waits until the RDB has arrived whole and tells its size, also when it was freed since. ErrDropped says that it never will.
func (s *Spool) Whole(ctx context.Context) (size int64, err error) {
	err = s.wait(ctx, func() bool { return s.Snapshot == nil || s.Snapshot.Complete })
	if err != nil {
		return 0, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.Snapshot == nil || !s.Snapshot.Complete {
		return 0, ErrDropped
	}
	return s.Snapshot.Size, nil
}

// Await waits until the stream reaches beyond offset, or its newest replication ID is not id; that is so at once when there is no stream.
func (s *Spool) Await(ctx context.Context, offset int64, id string) error {
	return s.wait(ctx, func() bool {
		return s.Links == nil || s.Links[len(s.Links)-1].ID != id || s.stream.end() > offset
	})
}

// wait waits until what is asked for under the lock is so.
func (s *Spool) wait(ctx context.Context, is func() bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if is() {
		return nil
	}
	defer s.wakeAtEnd(ctx)()
	for !is() {
		if s.closed {
			return ErrClosed
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		s.changed.Wait()
	}
	return nil
}

// wakeAtEnd wakes all who wait once ctx ends, until the function it returns is called.
func (s *Spool) wakeAtEnd(ctx context.Context) func() bool {
	return context.AfterFunc(ctx, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.changed.Broadcast()
	})
}
