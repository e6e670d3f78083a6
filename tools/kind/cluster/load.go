package cluster

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// Load puts the images of archives on all nodes, but for those that it put there before.
func (c *Cluster) Load(ctx context.Context, archives []string) error {
	note := filepath.Join(c.Dir, "loaded.json")
	loaded := map[string]bool{}
	if raw, err := os.ReadFile(note); err == nil {
		if err := json.Unmarshal(raw, &loaded); err != nil {
			return fmt.Errorf("%s: %w", note, err)
		}
	}
	var fresh []string
	now := map[string]bool{}
	for _, path := range archives {
		sum, err := digest(path)
		if err != nil {
			return fmt.Errorf("read an image archive (make images writes them): %w", err)
		}
		now[sum] = true
		if !loaded[sum] {
			fresh = append(fresh, path)
		}
	}
	if len(fresh) == 0 {
		c.Steps.Say("the images are on the nodes already")
		return nil
	}
	args := append([]string{"load", "image-archive", "--name", c.Name}, fresh...)
	if _, err := c.kind(ctx, fmt.Sprintf("loading %d image archives", len(fresh)), "", args...); err != nil {
		return err
	}
	// An archive that was replaced on the nodes counts no more, even if it comes back: tags have moved.
	raw, err := json.Marshal(now)
	if err != nil {
		return err
	}
	return os.WriteFile(note, raw, 0o600)
}

func digest(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	hash := sha256.New()
	if _, err := io.Copy(hash, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(hash.Sum(nil)), nil
}
