// Package buffer lends byte buffers to bytes in flight.
//
// A Buffer belongs to whoever holds it, is handed on whole rather than copied, and goes back with Free as soon as its
// bytes have left. Nobody holds one while waiting for a peer, which is what keeps an idle connection small. The package
// does not know what the bytes mean, but each buffer keeps Headroom in front of its payload so that an HTTP/2 frame
// header can be put there without moving data. It starts no goroutines.
package buffer

import "sync"

// Headroom is the room kept before the payload: one HTTP/2 frame header, RFC 9113 §4.1.
const Headroom = 9

// Payload capacities of the size classes.
const (
	Tiny   = 2<<10 - Headroom
	Small  = 16 << 10
	Medium = 64 << 10
	Large  = 256 << 10
)

// The pools are process-wide on purpose: a buffer filled by one connection is freed by another, and per-owner pools
// would only move the garbage around.
var classes = [...]class{{size: Tiny}, {size: Small}, {size: Medium}, {size: Large}}

type class struct {
	size int
	pool sync.Pool
}

// Buffer is a slice of pooled memory with a filled part. It must not be used after Free.
type Buffer struct {
	mem   []byte
	r, w  int
	class int8
	// Next links buffers into a Queue; it belongs to the queue the buffer is in.
	next *Buffer
}

// Get returns an empty buffer with room for at least size payload bytes, or for Large when size exceeds it.
func Get(size int) *Buffer {
	i := 0
	for i < len(classes)-1 && classes[i].size < size {
		i++
	}
	if b, ok := classes[i].pool.Get().(*Buffer); ok {
		b.r, b.w = Headroom, Headroom
		return b
	}
	return &Buffer{mem: make([]byte, Headroom+classes[i].size), r: Headroom, w: Headroom, class: int8(i)}
}

// Free gives the buffer back. Freeing nil is allowed.
func (b *Buffer) Free() {
	if b == nil {
		return
	}
	b.next = nil
	classes[b.class].pool.Put(b)
}

// Bytes returns the filled part.
func (b *Buffer) Bytes() []byte { return b.mem[b.r:b.w] }

// Len returns the number of filled bytes.
func (b *Buffer) Len() int { return b.w - b.r }

// Room returns the part that can still be filled; Fill tells how much of it was.
func (b *Buffer) Room() []byte { return b.mem[b.w:] }

// Fill adds the first n bytes of Room to the filled part.
func (b *Buffer) Fill(n int) { b.w += n }

// Append copies as much of p as fits and returns how much that was.
func (b *Buffer) Append(p []byte) int {
	n := copy(b.mem[b.w:], p)
	b.w += n
	return n
}

// Advance drops n bytes from the front.
func (b *Buffer) Advance(n int) { b.r += n }

// Rewind empties the buffer.
func (b *Buffer) Rewind() { b.r, b.w = Headroom, Headroom }

// Prepend returns n fresh bytes in front of the filled part. It needs an equal amount of headroom.
func (b *Buffer) Prepend(n int) []byte {
	b.r -= n
	return b.mem[b.r : b.r+n]
}

// Queue is a first-in first-out list of buffers. The zero value is empty; the owner guards it.
type Queue struct {
	head, tail *Buffer
	size       int
}

// Size returns the number of payload bytes queued.
func (q *Queue) Size() int { return q.size }

// Empty reports whether nothing is queued.
func (q *Queue) Empty() bool { return q.head == nil }

// Push appends b, which the queue owns from now on.
func (q *Queue) Push(b *Buffer) {
	b.next = nil
	if q.tail == nil {
		q.head = b
	} else {
		q.tail.next = b
	}
	q.tail = b
	q.size += b.Len()
}

// Pop removes and returns the first buffer, or nil.
func (q *Queue) Pop() *Buffer {
	b := q.head
	if b == nil {
		return nil
	}
	q.head = b.next
	if q.head == nil {
		q.tail = nil
	}
	b.next = nil
	q.size -= b.Len()
	return b
}

// Write copies p to the end, filling the last buffer before it takes new ones.
func (q *Queue) Write(p []byte) {
	for len(p) > 0 {
		if q.tail == nil || len(q.tail.Room()) == 0 {
			// A queue that already holds data is likely to get more: take bigger steps then.
			want := len(p)
			if q.tail != nil {
				want = max(want, Small)
			}
			q.Push(Get(min(want, Medium)))
		}
		n := q.tail.Append(p)
		q.size += n
		p = p[n:]
	}
}

// Read moves up to len(p) bytes into p and frees the buffers it empties.
func (q *Queue) Read(p []byte) int {
	total := 0
	for len(p) > 0 && q.head != nil {
		n := copy(p, q.head.Bytes())
		q.head.Advance(n)
		q.size -= n
		total += n
		p = p[n:]
		if q.head.Len() == 0 {
			q.Pop().Free()
		}
	}
	return total
}

// Discard frees everything and returns how many bytes that were.
func (q *Queue) Discard() int {
	n := q.size
	for b := q.Pop(); b != nil; b = q.Pop() {
		b.Free()
	}
	return n
}
