package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"
)

// heads reads messages of HTTP/1.1 whose bodies have a length, at hardly any cost: the load generator shares the machine
// with what it measures.
type heads struct {
	r      *bufio.Reader
	status int
	field  func(name, value []byte)
}

func newHeads(r io.Reader) *heads { return &heads{r: bufio.NewReaderSize(r, 8<<10)} }

// next reads one message and drops its body.
func (h *heads) next() error {
	h.status = 0
	length := 0
	for line := 0; ; line++ {
		b, err := h.r.ReadSlice('\n')
		if err != nil {
			return err
		}
		b = bytes.TrimRight(b, "\r\n")
		if len(b) == 0 {
			break
		}
		if line == 0 {
			if bytes.HasPrefix(b, []byte("HTTP/1.1 ")) && len(b) >= 12 {
				h.status, _ = strconv.Atoi(string(b[9:12]))
			}
			continue
		}
		name, value, _ := bytes.Cut(b, []byte(":"))
		value = bytes.TrimSpace(value)
		switch {
		case bytes.EqualFold(name, []byte("content-length")):
			if length, err = strconv.Atoi(string(value)); err != nil {
				return err
			}
		case bytes.EqualFold(name, []byte("transfer-encoding")):
			return errors.New("an answer without a length")
		}
		if h.field != nil {
			h.field(name, value)
		}
	}
	_, err := h.r.Discard(length)
	return err
}

// visitor asks on one connection and looks at one field of the answers.
type visitor struct {
	c    io.ReadWriteCloser
	in   *heads
	want string // name of the field
	got  string
}

func newVisitor(c io.ReadWriteCloser, field string) *visitor {
	v := &visitor{c: c, in: newHeads(c), want: field}
	v.in.field = func(name, value []byte) {
		if bytes.EqualFold(name, []byte(v.want)) {
			v.got = string(value)
		}
	}
	return v
}

// ask sends a request and returns the answer's status and that field.
func (v *visitor) ask(host string) (status int, field string, err error) {
	v.got = ""
	if _, err := fmt.Fprintf(v.c, "GET /items/42 HTTP/1.1\r\nhost: %s\r\nuser-agent: bench\r\n\r\n", host); err != nil {
		return 0, "", err
	}
	err = v.in.next()
	return v.in.status, v.got, err
}
