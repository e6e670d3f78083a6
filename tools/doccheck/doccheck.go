// Package doccheck finds links in the repository's documents that lead nowhere. It reads Markdown files and looks at the
// file system; it fetches nothing. Start reading at Broken.
package doccheck

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

// link matches the target of an inline Markdown link.
var link = regexp.MustCompile(`\]\(([^)\s]+)\)`)

// Broken returns one line for every relative link below root that names a file that does not exist.
func Broken(root string) ([]string, error) {
	var out []string
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && strings.HasPrefix(d.Name(), ".") && path != root {
			return filepath.SkipDir
		}
		if d.IsDir() || !strings.HasSuffix(path, ".md") {
			return nil
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for n, line := range strings.Split(string(text), "\n") {
			for _, m := range link.FindAllStringSubmatch(line, -1) {
				target, _, _ := strings.Cut(m[1], "#")
				if target == "" || strings.Contains(target, "://") {
					continue
				}
				if _, err := os.Stat(filepath.Join(filepath.Dir(path), target)); err != nil {
					out = append(out, fmt.Sprintf("%s:%d: %s does not exist", path, n+1, target))
				}
			}
		}
		return nil
	})
	return out, err
}
