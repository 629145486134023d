package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/dustin/go-humanize"

	"redferry/rdbstream"
	"redferry/replica"
)

// rdbReport is what an RDB holds, as inspect --json prints it; people script against it.
type rdbReport struct {
	File      string       `json:"file"`
	Version   string       `json:"version"`
	Aux       []auxField   `json:"aux"`
	Databases []database   `json:"databases"`
	Types     []typeCount  `json:"types"`
	Biggest   []keyInfo    `json:"biggest"`
	Functions []string     `json:"functions"`
	Modules   []string     `json:"module_aux,omitempty"` // modules that keep data beside their keys
	Bytes     int64        `json:"bytes"`
	Complete  bool         `json:"complete"` // read to the end, and the CRC agrees where there is one
	Error     string       `json:"error,omitempty"`
	types     map[byte]int // place in Types
	dbs       map[int]int  // place in Databases
	top       int
	valkey    bool
}

type auxField struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

type database struct {
	DB      int   `json:"db"`
	Keys    int64 `json:"keys"`
	Expires int64 `json:"expires"`
	Bytes   int64 `json:"bytes"`
}

type typeCount struct {
	Type     string `json:"type"`
	Encoding string `json:"encoding"` // the RDB's
	Keys     int64  `json:"keys"`
	Bytes    int64  `json:"bytes"`
}

// keyInfo is one key. Bytes are those of its value in the RDB, compressed as they stand there.
type keyInfo struct {
	DB       int        `json:"db"`
	Key      string     `json:"key"`
	Binary   []byte     `json:"key_base64,omitempty"` // the key where it is no UTF-8, which JSON cannot hold
	Type     string     `json:"type"`
	Encoding string     `json:"encoding"`
	Bytes    int64      `json:"bytes"`
	ExpireAt *time.Time `json:"expire_at,omitempty"`
	Offset   int64      `json:"offset"`
}

func (c *inspectCmd) inspectFile(ctx context.Context, w io.Writer) error {
	file := os.Stdin
	if c.File != "-" {
		var err error
		if file, err = os.Open(c.File); err != nil {
			return &replica.Stop{Kind: replica.Config, Reason: "cannot open the RDB", Err: err}
		}
		defer file.Close()
	}
	out := bufio.NewWriterSize(w, 64<<10)
	report := rdbReport{
		File: c.File, top: max(0, c.Top), types: map[byte]int{}, dbs: map[int]int{},
		Aux: []auxField{}, Databases: []database{}, Types: []typeCount{}, Biggest: []keyInfo{}, Functions: []string{}, // [] in JSON, not null
	}
	err := report.read(ctx, rdbstream.NewReader(bufio.NewReaderSize(file, 256<<10)), c.listing(out))
	if !c.Keys && report.Version != "" {
		err = errors.Join(err, c.print(out, &report)) // what was read before an error, too
	}
	return errors.Join(err, out.Flush())
}

// listing prints each key where --keys asks for it; nil where it does not.
func (c *inspectCmd) listing(w io.Writer) func(*rdbstream.Entry) error {
	switch {
	case !c.Keys:
		return nil
	case c.JSON:
		return func(e *rdbstream.Entry) error { return printJSON(w, describeKey(e)) }
	}
	return func(e *rdbstream.Entry) error {
		expiry := "-"
		if e.HasExpire {
			expiry = time.UnixMilli(e.ExpireAt).UTC().Format(time.RFC3339)
		}
		_, err := fmt.Fprintf(w, "%d\t%s\t%d\t%s\t%d\t%q\n", e.DB, typeOf(e), len(e.Value), expiry, e.Offset, e.Key)
		return err
	}
}

// typeOf is what TYPE says of a key: all names of an RDB's types begin with it.
func typeOf(e *rdbstream.Entry) string {
	name, _, _ := strings.Cut(rdbstream.TypeName(e.Valkey, e.Type), "_")
	return strings.ToLower(name)
}

func describeKey(e *rdbstream.Entry) keyInfo {
	k := keyInfo{
		DB: e.DB, Key: string(e.Key), Type: typeOf(e), Encoding: strings.ToLower(rdbstream.TypeName(e.Valkey, e.Type)),
		Bytes: int64(len(e.Value)), Offset: e.Offset,
	}
	if !utf8.Valid(e.Key) {
		k.Binary = bytes.Clone(e.Key)
	}
	if e.HasExpire {
		at := time.UnixMilli(e.ExpireAt).UTC()
		k.ExpireAt = &at
	}
	return k
}

// read goes through an RDB. each, when there is one, sees every key.
func (r *rdbReport) read(ctx context.Context, rdb *rdbstream.Reader, each func(*rdbstream.Entry) error) error {
	var e rdbstream.Entry
	for n := 0; ; n++ {
		if n%1024 == 0 && ctx.Err() != nil {
			return context.Cause(ctx)
		}
		err := rdb.Next(&e)
		r.Bytes = rdb.Offset()
		r.Version = ""
		if v := rdb.Version(); v.Number > 0 {
			r.Version, r.valkey = v.String(), v.Valkey
		}
		if err == io.EOF {
			r.Complete = true
			r.order()
			return nil
		}
		if err != nil {
			r.Error = err.Error()
			r.order()
			return unreadable(r.File, err)
		}
		switch e.Kind {
		case rdbstream.KindKey:
			r.key(&e)
			if each != nil {
				if err := each(&e); err != nil {
					return fmt.Errorf("print a key: %w", err)
				}
			}
		case rdbstream.KindAux:
			r.Aux = append(r.Aux, auxField{string(e.Name), string(e.Data)})
		case rdbstream.KindFunction:
			first, _, _ := strings.Cut(string(e.Data), "\n")
			r.Functions = append(r.Functions, first)
		case rdbstream.KindModuleAux:
			r.Modules = append(r.Modules, string(e.Name))
		}
	}
}

// unreadable says whose fault an error is: what is no RDB is the command line's, what is damaged is the file's.
func unreadable(file string, err error) error {
	var unknown *rdbstream.UnknownError
	if errors.As(err, &unknown) && (unknown.What == "magic" || unknown.What == "version") {
		return &replica.Stop{Kind: replica.Config, Reason: "cannot read " + file, Err: err}
	}
	return fmt.Errorf("%s is damaged or cut off: %w", file, err)
}

// key counts a key.
func (r *rdbReport) key(e *rdbstream.Entry) {
	i, ok := r.dbs[e.DB]
	if !ok {
		i = len(r.Databases)
		r.dbs[e.DB] = i
		r.Databases = append(r.Databases, database{DB: e.DB})
	}
	db, size := &r.Databases[i], int64(len(e.Value))
	db.Keys++
	db.Bytes += size
	if e.HasExpire {
		db.Expires++
	}
	i, ok = r.types[e.Type]
	if !ok {
		i = len(r.Types)
		r.types[e.Type] = i
		r.Types = append(r.Types, typeCount{Type: typeOf(e), Encoding: strings.ToLower(rdbstream.TypeName(e.Valkey, e.Type))})
	}
	r.Types[i].Keys++
	r.Types[i].Bytes += size
	// Biggest is kept in order; nearly all keys are smaller than its last and cost one comparison.
	if len(r.Biggest) < r.top || r.top > 0 && size > r.Biggest[len(r.Biggest)-1].Bytes {
		at, _ := slices.BinarySearchFunc(r.Biggest, size, func(k keyInfo, size int64) int {
			if k.Bytes >= size {
				return -1
			}
			return 1
		})
		r.Biggest = slices.Insert(r.Biggest, at, describeKey(e))
		r.Biggest = r.Biggest[:min(len(r.Biggest), r.top)]
	}
}

// order sorts what came in the file's order.
func (r *rdbReport) order() {
	slices.SortFunc(r.Databases, func(a, b database) int { return a.DB - b.DB })
	slices.SortFunc(r.Types, func(a, b typeCount) int { return strings.Compare(a.Encoding, b.Encoding) })
}

func (c *inspectCmd) print(w io.Writer, r *rdbReport) error {
	if c.JSON {
		return printJSON(w, r)
	}
	p := &table{w: w}
	p.row("file", "%s, %s", r.File, r.Version)
	end := "whole, and the CRC agrees where it has one"
	if !r.Complete {
		end = "not whole"
	}
	p.row("read", "%s bytes; %s", humanize.Comma(r.Bytes), end)
	for _, a := range r.Aux {
		p.row("aux", "%s = %.120q", a.Name, a.Value)
	}
	for _, f := range r.Functions {
		p.row("function", "%.120s", f)
	}
	for _, m := range r.Modules {
		p.row("module", "%s keeps data beside its keys, which no client can restore", m)
	}
	p.line("\n%8s  %14s  %14s  %12s", "database", "keys", "with expiry", "bytes")
	for _, db := range r.Databases {
		p.line("%8d  %14s  %14s  %12s", db.DB, humanize.Comma(db.Keys), humanize.Comma(db.Expires), humanize.Bytes(uint64(db.Bytes)))
	}
	p.line("\n%-8s  %-20s  %14s  %12s", "type", "in the RDB", "keys", "bytes")
	for _, t := range r.Types {
		p.line("%-8s  %-20s  %14s  %12s", t.Type, t.Encoding, humanize.Comma(t.Keys), humanize.Bytes(uint64(t.Bytes)))
	}
	if len(r.Biggest) > 0 {
		p.line("\n%12s  %8s  %-8s  %s", "bytes", "database", "type", "biggest keys")
		for _, k := range r.Biggest {
			p.line("%12s  %8d  %-8s  %.100q", humanize.Bytes(uint64(k.Bytes)), k.DB, k.Type, k.Key)
		}
	}
	return p.err
}
