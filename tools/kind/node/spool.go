package node

import (
	"os"

	"github.com/ambit-mesh/ambit/tools/kind/archive"
)

// spool writes images to a file that goes away with remove.
func spool(images []archive.Image) (path string, remove func(), err error) {
	f, err := os.CreateTemp("", "ambit-node-*.tar")
	if err != nil {
		return "", nil, err
	}
	remove = func() { os.Remove(f.Name()) }
	if err := archive.Write(f, images...); err != nil {
		f.Close()
		remove()
		return "", nil, err
	}
	if err := f.Close(); err != nil {
		remove()
		return "", nil, err
	}
	return f.Name(), remove, nil
}
