// Package bpf loads the programs that redirect pods' traffic without netfilter, attaches them, and keeps them pinned.
//
// The programs are in programs/redirect.c, which says what each does. Those for the whole machine hang at the root of
// control groups v2 and know pods by the cookies of their network namespaces; one more hangs in each pod's namespace.
// Links and maps are pinned below Place.Dir in a BPF file system: an agent that ends leaves them working, and the next
// one takes them over, replacing programs in place.
//
// It does not know routes, marks' meaning to others, or why a pod is captured; package redirect does. It starts no
// goroutine. Start reading at place.go, then programs.go and pod.go.
package bpf
