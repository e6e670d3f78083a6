// Package table prints aligned columns, with colour where a terminal wants it.
//
// It knows widths and colours, nothing of what is in the cells. Start reading at Table.Write.
package table

import (
	"io"
	"os"
	"strings"
	"unicode/utf8"
)

// Table is a heading and rows. Short rows are filled up with empty cells.
type Table struct {
	Head []string
	Rows [][]string
}

// Add appends a row.
func (t *Table) Add(cells ...string) { t.Rows = append(t.Rows, cells) }

// gap is the space between columns.
const gap = 2

// Write prints t. paint, if not nil, may wrap a cell in colour; widths are counted before that. An empty cell of a row
// prints as a dash, so that columns can be cut apart by words.
func (t *Table) Write(w io.Writer, paint func(column, cell string) string) error {
	width := make([]int, len(t.Head))
	for _, row := range append([][]string{t.Head}, t.Rows...) {
		for i, cell := range row[:min(len(row), len(width))] {
			width[i] = max(width[i], utf8.RuneCountInString(cell), 1)
		}
	}
	var out strings.Builder
	for n, row := range append([][]string{t.Head}, t.Rows...) {
		for i := range t.Head {
			cell := "-"
			if i < len(row) && row[i] != "" {
				cell = row[i]
			}
			pad := strings.Repeat(" ", width[i]-utf8.RuneCountInString(cell)+gap)
			if n > 0 && paint != nil {
				cell = paint(t.Head[i], cell)
			}
			out.WriteString(cell)
			if i < len(t.Head)-1 {
				out.WriteString(pad)
			}
		}
		out.WriteString("\n")
	}
	_, err := io.WriteString(w, out.String())
	return err
}

// Colour is an SGR code.
type Colour string

// Colours.
const (
	Red    Colour = "31"
	Green  Colour = "32"
	Yellow Colour = "33"
)

// Wrap colours s.
func (c Colour) Wrap(s string) string { return "\x1b[" + string(c) + "m" + s + "\x1b[0m" }

// Wanted reports whether w is a terminal whose owner did not ask for plain text. See no-color.org.
func Wanted(w io.Writer, getenv func(string) string) bool {
	if getenv("NO_COLOR") != "" || getenv("TERM") == "dumb" || getenv("TERM") == "" {
		return false
	}
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	st, err := f.Stat()
	return err == nil && st.Mode()&os.ModeCharDevice != 0
}
