//go:build wasip1

// A module for tests: it adds a header to every request, with its configuration as the value.
package main

import "unsafe"

func main() {}

//go:wasmimport env proxy_add_header_map_value
func addHeader(kind int32, key unsafe.Pointer, keySize int32, value unsafe.Pointer, valueSize int32) int32

//go:wasmimport env proxy_get_buffer_bytes
func getBuffer(kind, start, size int32, data, dataSize unsafe.Pointer) int32

var kept [][]byte // what the host was given, so that it stays

var config = []byte("none")

//go:wasmexport proxy_abi_version_0_2_1
func abi() {}

//go:wasmexport proxy_on_memory_allocate
func allocate(size int32) unsafe.Pointer {
	b := make([]byte, max(size, 1))
	kept = append(kept, b)
	return unsafe.Pointer(&b[0])
}

//go:wasmexport proxy_on_context_create
func create(int32, int32) {}

//go:wasmexport proxy_on_vm_start
func start(int32, int32) int32 { return 1 }

//go:wasmexport proxy_on_configure
func configure(_, size int32) int32 {
	var data uint32
	var n int32
	// 7 is the plugin's configuration.
	if size > 0 && getBuffer(7, 0, size, unsafe.Pointer(&data), unsafe.Pointer(&n)) == 0 {
		for _, b := range kept {
			if uint32(uintptr(unsafe.Pointer(&b[0]))) == data {
				config = b[:n]
			}
		}
	}
	return 1
}

//go:wasmexport proxy_on_request_headers
func requestHeaders(int32, int32, int32) int32 {
	key := []byte("x-wasm")
	addHeader(0, unsafe.Pointer(&key[0]), int32(len(key)), unsafe.Pointer(&config[0]), int32(len(config)))
	return 0
}

//go:wasmexport proxy_on_response_headers
func responseHeaders(int32, int32, int32) int32 { return 0 }

//go:wasmexport proxy_on_done
func done(int32) int32 { return 1 }

//go:wasmexport proxy_on_delete
func remove(int32) {}
