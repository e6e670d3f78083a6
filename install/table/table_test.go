package table

import (
	"bytes"
	"os"
	"strings"
	"testing"
)

func TestWrite(t *testing.T) {
	tb := Table{Head: []string{"NAME", "WHAT", "END"}}
	tb.Add("ä", "long cell", "x")
	tb.Add("plain")
	tb.Add("a", "", "z", "left out")
	var plain, coloured bytes.Buffer
	if err := tb.Write(&plain, nil); err != nil {
		t.Fatal(err)
	}
	want := "NAME   WHAT       END\nä      long cell  x\nplain  -          -\na      -          z\n"
	if plain.String() != want {
		t.Errorf("got\n%swant\n%s", plain.String(), want)
	}
	if err := tb.Write(&coloured, func(_, cell string) string { return Red.Wrap(cell) }); err != nil {
		t.Fatal(err)
	}
	if got := strings.NewReplacer("\x1b[31m", "", "\x1b[0m", "").Replace(coloured.String()); got != want {
		t.Errorf("colour changes the columns:\n%s", got)
	}
}

func TestWanted(t *testing.T) {
	env := func(m map[string]string) func(string) string { return func(k string) string { return m[k] } }
	tty, err := os.OpenFile("/dev/null", os.O_WRONLY, 0) // a character device, as terminals are
	if err != nil {
		t.Skip(err)
	}
	defer tty.Close()
	if !Wanted(tty, env(map[string]string{"TERM": "xterm"})) {
		t.Error("no colour on a terminal")
	}
	for name, no := range map[string]bool{
		"NO_COLOR": Wanted(tty, env(map[string]string{"TERM": "xterm", "NO_COLOR": "1"})),
		"dumb":     Wanted(tty, env(map[string]string{"TERM": "dumb"})),
		"a buffer": Wanted(&bytes.Buffer{}, env(map[string]string{"TERM": "xterm"})),
	} {
		if no {
			t.Errorf("colour with %s", name)
		}
	}
}
