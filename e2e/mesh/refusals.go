package mesh

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"

	"github.com/ambit-mesh/ambit/e2e/lab"
	"github.com/ambit-mesh/ambit/e2e/lab/wire"
)

// Refusal is what the control plane has against an object. Field names are those of its admin interface.
type Refusal struct {
	Severity  string `json:"severity"`
	Kind      string `json:"kind"`
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	Field     string `json:"field"`
	Problem   string `json:"problem"`
	Fix       string `json:"fix"`
	Kept      bool   `json:"kept"`
}

// String says it in one line.
func (r Refusal) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s: ", strings.ToLower(r.Kind), strings.TrimPrefix(r.Namespace+"/"+r.Name, "/"))
	if r.Field != "" {
		b.WriteString(r.Field + ": ")
	}
	b.WriteString(r.Problem)
	if r.Fix != "" {
		b.WriteString("; " + r.Fix)
	}
	if r.Kept {
		b.WriteString(" (the version before stays in force)")
	}
	return b.String()
}

// Refused reports whether the object is not in force as written, rather than only doubtful.
func (r Refusal) Refused() bool { return strings.HasPrefix(strings.ToLower(r.Severity), "refus") }

// Refusals asks the control plane of a lab what it refuses or doubts. A lab without one refuses nothing.
func Refusals(ctx context.Context, l *lab.Lab) ([]Refusal, error) {
	if _, err := os.Stat(l.Control.AdminSocket); errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var out struct {
		Entries []Refusal `json:"entries"`
	}
	if err := ask(ctx, l, "/debug/refusals", &out); err != nil {
		return nil, err
	}
	return out.Entries, nil
}

// settle is how long the control plane may take to read what was just applied, and unsettled how long it is waited for
// when it is seen to be behind, on a machine that is busy.
const (
	settle    = 250 * time.Millisecond
	unsettled = 5 * time.Second
)

// Objections waits a moment for the control plane to read what was applied and returns what it has against it.
func Objections(ctx context.Context, l *lab.Lab, applied []wire.Result) ([]Refusal, error) {
	mine := map[wire.Ref]bool{}
	for _, r := range applied {
		mine[wire.Ref{Kind: r.Kind, Namespace: r.Namespace, Name: r.Name}] = r.Error == ""
	}
	began := time.Now()
	for {
		all, err := Refusals(ctx, l)
		if err != nil {
			return nil, err
		}
		var list []Refusal
		for _, r := range all {
			if mine[wire.Ref{Kind: r.Kind, Namespace: r.Namespace, Name: r.Name}] {
				list = append(list, r)
			}
		}
		// Earlier than that, it may be an objection to the version before.
		if waited := time.Since(began); waited > settle {
			if len(list) > 0 {
				return list, nil
			}
			if late, err := behind(ctx, l); late == "" || err != nil || waited > unsettled {
				return nil, err
			}
		}
		timer := time.NewTimer(settle / 5)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return nil, fmt.Errorf("ask the control plane: %w", ctx.Err())
		}
	}
}
