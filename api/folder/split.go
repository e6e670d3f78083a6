package folder

import (
	"bytes"
	"iter"
	"slices"
)

// Document is one document of a file.
type Document struct {
	// Line is the number of the first line of Data in its file, counted from 1.
	Line int
	Data []byte
}

// SplitDocuments cuts a YAML stream into its documents. Documents with nothing but blank lines, comments and directives
// are left out. A JSON file is one document.
func SplitDocuments(data []byte) []Document { return slices.Collect(Documents(data)) }

// Documents is SplitDocuments one at a time, for readers that stop early.
//
// In YAML three dashes or three dots in the first column end a document wherever they stand, even inside a block
// scalar (YAML 1.2.2 §9.1.2), so cutting by lines needs no parser.
func Documents(data []byte) iter.Seq[Document] {
	data = bytes.TrimPrefix(data, []byte("\xef\xbb\xbf"))
	return func(yield func(Document) bool) {
		start, startLine := 0, 1 // of the document being collected
		content := false
		line, pos := 0, 0
		emit := func(end int) bool {
			return !content || yield(Document{Line: startLine, Data: data[start:end]})
		}
		for pos < len(data) {
			line++
			next := len(data)
			if i := bytes.IndexByte(data[pos:], '\n'); i >= 0 {
				next = pos + i + 1
			}
			text := data[pos:next]
			switch {
			case marks(text, "---"):
				if !emit(pos) {
					return
				}
				// What stands behind the dashes belongs to the new document.
				start, startLine = pos+3, line
				content = !blank(text[3:])
			case marks(text, "..."):
				if !emit(pos) {
					return
				}
				start, startLine, content = next, line+1, false
			default:
				content = content || !blank(text)
			}
			pos = next
		}
		emit(len(data))
	}
}

// marks reports whether a line is a document marker.
func marks(line []byte, mark string) bool {
	if !bytes.HasPrefix(line, []byte(mark)) {
		return false
	}
	return len(line) == len(mark) || bytes.IndexByte([]byte(" \t\r\n"), line[len(mark)]) >= 0
}

// blank reports whether a line carries nothing for a reader of documents. A line that begins with a percent sign is a
// directive only before a document, but no document of ours begins with one either.
func blank(line []byte) bool {
	line = bytes.TrimSpace(line)
	return len(line) == 0 || line[0] == '#' || line[0] == '%'
}
