package bpf

// The objects are committed, so that nobody needs clang to build; this makes them again.
//go:generate go run github.com/cilium/ebpf/cmd/bpf2go -target bpfel -cc clang -no-global-types redirect programs/redirect.c -- -Iprograms -O2 -g -Wall -Werror -Wno-unused-function -mcpu=v3
