package applier

import (
	"context"
	"fmt"
	"sync"

	"github.com/redis/rueidis"

	"redferry/applier/checkpoint"
	"redferry/replica"
)

// Valkey's import mode (8.1 and later) makes a primary treat us as a replica treats its primary: for a connection that has said that it imports, no key has expired, whatever
// its TTL; for all others an expired one is missing; and nothing is expired or evicted by the server itself. It is a setting of the running server alone: a restart loses it,
// and a promoted replica never had it.

// importMode is whether this run holds the target in import mode. It is on only after the checkpoint says how the mode was before.
type importMode struct {
	mu sync.Mutex
	on bool
}

// set says whether it does, and returns whether it did.
func (m *importMode) set(on bool) (was bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	was, m.on = m.on, on
	return was
}

// importMode queues the setting of the target's mode.
func (p *pipeline) importMode(value string) {
	p.queue(0, p.b.ConfigSet().ParameterValue().ParameterValue("import-mode", value).Build(), refOwn)
}

// admitImport refuses --expiry=import to a target that cannot do it.
func (a *Applier) admitImport() error {
	if a.Expiry != Import || a.target.importMode != "" {
		return nil
	}
	if !a.target.hasImportMode {
		return &replica.Stop{
			Kind: replica.Config, Reason: fmt.Sprintf("--expiry=import needs a target of Valkey 8.1 or later, and %s is %s", a.Target, a.target.version),
			Hint: "leave it out: --expiry=shift serves every target",
		}
	}
	return &replica.Stop{
		Kind: replica.Config, Reason: fmt.Sprintf("--expiry=import needs CONFIG GET and CONFIG SET, and the target %s does not tell its import-mode", a.Target),
		Hint: "ACL SETUSER <user> +config|get +config|set +client|import-source on the target, or leave it out: --expiry=shift needs none of them",
	}
}

// admitExpiry refuses to go on with a migration in another way than it was begun in: a shifted target has to be settled, and import mode to be ended, in the way that knows of it.
// Of expiries that are as they are nothing has to be undone.
func (a *Applier) admitExpiry(rec *checkpoint.Record) error {
	was := rec.Expiry
	if was == checkpoint.Mixed {
		was = string(Shift)
	}
	if was == checkpoint.AsIs || was == string(a.Expiry) {
		return nil
	}
	return &replica.Stop{
		Kind:   replica.Decide,
		Reason: fmt.Sprintf("the expiries of this migration are written with --expiry=%s, and this run was given --expiry=%s", was, a.Expiry),
		Hint: fmt.Sprintf("go on with --expiry=%[1]s; or finish with it, `redferry run --expiry=%[1]s --stop-at caught-up`, after which the target's expiries are the source's, and change then",
			was),
	}
}

// importWas is what the checkpoint says of the mode before this migration.
func (a *Applier) importWas() string {
	if a.Expiry != Import || a.rec.ImportWas != "" {
		return a.rec.ImportWas
	}
	return a.target.importMode
}

// takeUpExpiry has the checkpoint that was found say how this run writes expiries.
func (a *Applier) takeUpExpiry(ctx context.Context) error {
	if a.rec.Phase == checkpoint.PhaseStream && a.Expiry != AsIs {
		now, err := a.targetTime(ctx)
		if err != nil {
			return err
		}
		if a.rec.Expiry != string(Import) && now.UnixMilli() >= realFrom(&a.rec) {
			a.noteExpired(&a.rec)
			a.changes++
		}
	}
	switch {
	case a.rec.Expiry == string(a.Expiry), a.rec.Expiry == checkpoint.Mixed:
	case a.Expiry == Shift:
		return a.changeExpiry(ctx, checkpoint.Mixed)
	default:
		return a.changeExpiry(ctx, a.Expiry)
	}
	a.imports.set(a.Expiry == Import)
	return nil
}

// changeExpiry stores how the target's expiries are written from now on. Import mode is switched on, or back to what it was, in the same fenced transaction: whoever is killed
// leaves a checkpoint that knows, and whoever was replaced switches nothing. No Commit may be running.
func (a *Applier) changeExpiry(ctx context.Context, to Expiry) error {
	mode, was := a.rec.ImportWas, ""
	if to == Import {
		mode, was = "yes", a.importWas()
	}
	on := a.imports.set(false) // a transaction whose reply is lost is sent again, by a connection that need not find the mode on
	s := session{a: a}
	defer s.close()
	v, err := s.run(ctx, func(p *pipeline) {
		r := checkpoint.Record{Expiry: string(to), ImportWas: was, Expired: a.rec.Expired}
		p.hset(checkpoint.Key(a.Name), r.ExpiryFields())
		if mode != "" {
			p.importMode(mode)
		}
	})
	if err != nil {
		a.imports.set(on)
		return fmt.Errorf("store how expiries are written: %w", err)
	}
	if v.unguarded {
		return a.diverge(ctx, v)
	}
	a.rec.Expiry, a.rec.ImportWas, a.rec.RealFrom = string(to), was, 0
	a.imports.set(to == Import)
	return nil
}

// importSource has nothing expire for a connection that is to write, in import mode. A target that has lost the mode gets it again first: nothing may be written without it.
func (a *Applier) importSource(ctx context.Context, c *conn) error {
	m := &a.imports
	m.mu.Lock() // several connections may find it lost: one says so
	defer m.mu.Unlock()
	if !m.on {
		return nil
	}
	mode, err := c.Do(ctx, c.B().ConfigGet().Parameter("import-mode").Build()).AsStrMap()
	if err == nil && mode["import-mode"] != "yes" {
		a.Log.Warn().Str("target", a.Target.String()).
			Msg("the target has lost its import mode: it was restarted, has failed over, or somebody has switched it off. It is switched on again; " +
				"keys whose TTL ran out meanwhile may be lost there: compare both sides")
		err = c.Do(ctx, c.B().ConfigSet().ParameterValue().ParameterValue("import-mode", "yes").Build()).Error()
	}
	if err == nil {
		err = c.Do(ctx, c.B().Arbitrary("CLIENT", "IMPORT-SOURCE", "ON").Build()).Error()
	}
	if err != nil {
		return fmt.Errorf("write in the target's import mode: %w", replica.AuthStop("target", a.Target, err))
	}
	return nil
}

// putImportModeBack is for a migration that is removed before it has ended import mode.
func (t *Traces) putImportModeBack(ctx context.Context, c rueidis.Client, e replica.Endpoint) error {
	was := t.Checkpoint[checkpoint.FieldImport] // also of a checkpoint that cannot be used otherwise
	if was == "" {
		return nil
	}
	mode, err := c.Do(ctx, c.B().ConfigGet().Parameter("import-mode").Build()).AsStrMap()
	if err == nil && mode["import-mode"] != "" { // else it is another server now, which has none
		err = c.Do(ctx, c.B().ConfigSet().ParameterValue().ParameterValue("import-mode", was).Build()).Error()
	}
	if err != nil {
		return fmt.Errorf("put the import-mode of %s back to %q: %w", e, was, replica.AuthStop("target", e, err))
	}
	return nil
}
