package ctl

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/ambit-mesh/ambit/install/table"
)

// stage is one line of the walk.
type stage struct {
	Hop     string `json:"hop"`
	Verdict string `json:"verdict"`
	What    string `json:"what"`
	Object  string `json:"object,omitempty"`
}

// explanation is the whole walk.
type explanation struct {
	Allowed bool `json:"allowed"`
	// Status is what a proxy answers itself; 0 when the backend does, or when the connection is closed.
	Status int `json:"status,omitempty"`
	// Reason is a node proxy's, as in its log.
	Reason string `json:"reason,omitempty"`
	// By is the object that decided against it.
	By string `json:"by,omitempty"`
	// Unknown says why the walk could not be finished.
	Unknown string  `json:"unknown,omitempty"`
	Stages  []stage `json:"stages"`
	// some: not all the pods or backends that may be chosen fare as the whole does.
	some string
}

// Verdicts of a stage.
const (
	pass   = "pass"
	deny   = "DENY"
	either = "open" // somebody else decides
)

func (e *explanation) add(hop, verdict, object, format string, args ...any) {
	e.Stages = append(e.Stages, stage{hop, verdict, fmt.Sprintf(format, args...), object})
}

// refuse ends the walk.
func (e *explanation) refuse(hop, object, reason string, status int, text string) {
	e.Allowed, e.Reason, e.Status, e.By = false, reason, status, object
	e.add(hop, deny, object, "%s", text)
}

// lost ends a walk whose next hop cannot be asked.
func (e *explanation) lost(hop string, err error) {
	e.Allowed, e.Unknown = false, err.Error()
	e.add(hop, either, "", "cannot be asked: %v", err)
}

// outcome is how pods or backends of which one is chosen fare.
type outcome struct {
	taken, refused int
	status         int
	reason, by     string
	unknown        string
}

func (o *outcome) also(x outcome) {
	if o.refused == 0 {
		o.status, o.reason, o.by = x.status, x.reason, x.by
	}
	o.taken, o.refused = o.taken+x.taken, o.refused+x.refused
	o.unknown = cmp.Or(o.unknown, x.unknown)
}

// settle makes the outcome that of the walk.
func (e *explanation) settle(o outcome) {
	switch {
	case o.taken == 0 && o.refused > 0:
		e.Allowed, e.Status, e.Reason, e.By = false, o.status, o.reason, o.by
	case o.taken == 0 && o.unknown != "":
		e.Allowed, e.Unknown = false, o.unknown
	case o.refused > 0:
		e.some = fmt.Sprintf("%d of those that may be chosen would refuse it, see DENY above.", o.refused)
	}
}

// verdict is the walk in a sentence.
func (e *explanation) verdict() string {
	by := ""
	if e.By != "" {
		by = ", because of " + e.By
	}
	switch {
	case e.Unknown != "":
		return "What becomes of it cannot be said."
	case !e.Allowed && e.Status != 0:
		return fmt.Sprintf("The mesh refuses it with status %d%s.", e.Status, by)
	case !e.Allowed:
		return "The mesh closes the connection (" + cmp.Or(e.Reason, "refused") + ")" + by + "."
	case e.Status != 0:
		return fmt.Sprintf("The proxy answers it itself, with status %d.", e.Status)
	case e.some != "":
		return "The mesh lets it through, but " + e.some
	}
	return "The mesh lets it through."
}

// lineWidth is where lines are broken.
const lineWidth = 120

// tell prints the walk; a refusal has an exit code of its own.
func (a *app) tell(f format, e *explanation) error {
	if f.structured() {
		if err := a.data(f, e); err != nil {
			return err
		}
	} else if err := e.write(a.env.Out, a.paint()); err != nil {
		return err
	}
	switch {
	case e.Unknown != "":
		return errors.New("the walk ends early: " + e.Unknown)
	case !e.Allowed:
		return errIssues
	}
	return nil
}

// write prints hops and, below each, what it says.
func (e *explanation) write(out io.Writer, paint func(column, cell string) string) error {
	var b strings.Builder
	last := ""
	for _, s := range e.Stages {
		if s.Hop != last {
			b.WriteString(brief(s.Hop) + "\n")
			last = s.Hop
		}
		text := brief(s.What)
		if s.Object != "" {
			text += " [" + s.Object + "]"
		}
		verdict := fmt.Sprintf("%-4s", s.Verdict)
		if paint != nil {
			verdict = verdictColour(s.Verdict).Wrap(verdict)
		}
		for i, line := range broken(text, lineWidth-8) {
			if i == 0 {
				b.WriteString("  " + verdict + "  " + line + "\n")
			} else {
				b.WriteString("        " + line + "\n")
			}
		}
	}
	b.WriteString("\n" + strings.Join(broken(e.verdict(), lineWidth), "\n") + "\n")
	_, err := io.WriteString(out, b.String())
	return err
}

func verdictColour(verdict string) table.Colour {
	switch verdict {
	case pass:
		return table.Green
	case deny:
		return table.Red
	}
	return table.Yellow
}

// broken breaks text between words.
func broken(text string, width int) []string {
	var lines []string
	line := ""
	for _, word := range strings.Fields(text) {
		if line != "" && len(line)+1+len(word) > width {
			lines, line = append(lines, line), ""
		}
		if line != "" {
			line += " "
		}
		line += word
	}
	return append(lines, line)
}

// brief leaves out of names what namespace and mesh say anyway: namespace/name.namespace.svc.domain is namespace/name.
func brief(text string) string {
	words := strings.Split(text, " ")
	for i, word := range words {
		namespace, rest, ok := strings.Cut(word, "/")
		if !ok {
			continue
		}
		if name, domain, ok := strings.Cut(rest, "."+namespace+".svc."); ok {
			words[i] = namespace + "/" + name + domain[min(len(domain), domainEnd(domain)):]
		}
	}
	return strings.Join(words, " ")
}

// domainEnd is where a domain ends in text that goes on with a port or punctuation.
func domainEnd(text string) int {
	if i := strings.IndexFunc(text, func(r rune) bool {
		return r != '.' && r != '-' && (r < 'a' || r > 'z') && (r < '0' || r > '9')
	}); i >= 0 {
		return i
	}
	return len(text)
}
