package replica

import (
	"context"
	"errors"
	"fmt"
	"strings"
)

// PutLimitsBack puts back what the note in file, if there is one, says that a run which was killed has left lifted at the source. It is for a migration that no
// later run mends. done says in a sentence what was put back, and is empty where nothing was lifted.
//
// The error is a [Stop] that names what stays lifted, and the command for it. The note stays then, too. A nil source is one that was not given.
func PutLimitsBack(ctx context.Context, source *Endpoint, file string) (done string, err error) {
	l := limits{path: file}
	records, err := l.read()
	if err != nil || len(records) == 0 {
		return "", err
	}
	if source == nil {
		return "", leftLifted(records, Config, "give --source URL to have it put back", nil)
	}
	if l.source, err = source.Resolve(ctx); err == nil {
		err = l.restore(ctx)
	}
	if err == nil {
		return fmt.Sprintf("its %s is %s again, as before the migration", bufferLimitName, records[0].Limit), nil
	}
	left, reading := l.read()
	if reading != nil || len(left) == 0 {
		return "", errors.Join(err, reading)
	}
	return "", leftLifted(left, Failed, "run the same command again once the source is there", err)
}

// leftLifted names the sources that have no limit for replicas since a run lifted it.
func leftLifted(records []raisedLimit, kind Kind, way string, err error) *Stop {
	what, commands := make([]string, len(records)), make([]string, len(records))
	for i, r := range records {
		what[i] = fmt.Sprintf("the source %s has no %s for replicas since %s", r.Addr, bufferLimitName, r.Since.Format("2006-01-02 15:04:05Z"))
		commands[i] = fmt.Sprintf("on %s, %s", r.Addr, setBufferLimit(r.Limit))
	}
	return &Stop{
		Kind: kind, Reason: strings.Join(what, ", and ") + ": a run with --raise-source-limits was killed", Err: err,
		Hint: way + "; or by hand: " + strings.Join(commands, "; ") + ", and then reset with --source again or remove the file source-limits",
	}
}
