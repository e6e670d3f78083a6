package chain

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
)

// Mode is where the plugin's entry goes.
type Mode int

// Modes.
const (
	// Chained puts it into the configuration that is in effect.
	Chained Mode = iota
	// Owned leaves that alone and puts a copy with our entry before it.
	Owned
	// Standalone writes a configuration of the plugin alone, for runtimes that are told its name by others (Multus).
	Standalone
)

// Settings are how the plugin is to be installed.
type Settings struct {
	Mode Mode
	// Name is the file that is in effect; empty means the first valid one, by which runtimes go.
	Name string
	// Own is the name of the file that Owned and Standalone write.
	Own string
	// Entry is the plugin's part of a configuration.
	Entry json.RawMessage
}

// File is one of the folder.
type File struct {
	Name string
	Data []byte
}

// Change is one step. Old is nil for a file that is new, New for one that is to be deleted; To renames it.
type Change struct {
	Name     string
	Old, New []byte
	To       string
}

// saved is the end of the name of a configuration that we have replaced by one of ours.
const saved = ".ambit-saved"

// ErrNoNetwork says that there is nothing yet to be chained to.
var ErrNoNetwork = errors.New("no valid CNI configuration: the cluster's network plugin has not written one yet")

// IsConf reports whether runtimes look at a file of that name.
func IsConf(name string) bool {
	switch filepath.Ext(name) {
	case ".conf", ".conflist", ".json":
		return true
	}
	return false
}

// conf is a valid file.
type conf struct {
	File
	list   list
	single []member // nil in a .conflist
}

func parse(f File) (conf, error) {
	c := conf{File: f}
	var err error
	if filepath.Ext(f.Name) == ".conflist" {
		c.list, err = parseList(f.Data)
	} else {
		c.single, err = parseSingle(f.Data)
	}
	if err != nil {
		return c, fmt.Errorf("%s: %w", f.Name, err)
	}
	return c, nil
}

// effective is the file that runtimes go by: the first valid one by name (containerd/go-cni loadFromConfDir). Files of
// ours that stand beside it do not count.
func effective(files []File, s Settings) (conf, error) {
	files = slices.Clone(files)
	slices.SortFunc(files, func(a, b File) int { return strings.Compare(a.Name, b.Name) })
	problems := []error{ErrNoNetwork}
	for _, f := range files {
		named := s.Name == "" || f.Name == s.Name || f.Name == converted(s.Name)
		if !IsConf(f.Name) || !named || f.Name == s.Own && s.Mode != Chained {
			continue
		}
		c, err := parse(f)
		if err == nil {
			return c, nil
		}
		problems = append(problems, err)
	}
	return conf{}, errors.Join(problems...)
}

// Plan says what is to be changed in a folder for the plugin to be in effect; nothing if it is.
func Plan(files []File, s Settings) ([]Change, error) {
	old, rest := leftovers(files, s)
	changes, err := plan(rest, s)
	if err != nil {
		return nil, err
	}
	return append(changes, old...), nil
}

// copyOf is what a copy of ours says about itself; runtimes do not look at it.
const copyOf = "ambit.io/copyOf"

// leftovers takes the files apart that an agent with other settings has written.
func leftovers(files []File, s Settings) (old []Change, rest []File) {
	for _, f := range files {
		if whole(f) && (s.Mode == Chained || f.Name != s.Own) {
			old = append(old, Change{Name: f.Name, Old: f.Data})
		} else {
			rest = append(rest, f)
		}
	}
	return old, rest
}

// whole reports whether a file is ours alone: a copy, or the plugin by itself.
func whole(f File) bool {
	if !IsConf(f.Name) {
		return false
	}
	c, err := parse(f)
	return err == nil && (get(c.list.object, copyOf) != nil || c.single != nil && text(c.single, "type") == Type)
}

func plan(files []File, s Settings) ([]Change, error) {
	switch s.Mode {
	case Standalone:
		if old := find(files, s.Own); old != nil && !whole(*old) {
			return nil, fmt.Errorf("%s is somebody else's, and would be written over: choose another name (CNI_CONF_NAME)", s.Own)
		}
		return replace(files, s.Own, renderEntry(s.Entry)), nil
	case Owned:
		c, err := effective(files, s)
		if err != nil {
			return nil, err
		}
		if c.Name < s.Own && s.Name == "" {
			return nil, fmt.Errorf("%s comes before %s, so that runtimes do not read ours: choose a name that is sorted first (ISTIO_OWNED_CNI_CONFIG_FILENAME)", c.Name, s.Own)
		}
		l := c.list
		if c.single != nil {
			l = listOf(c.single)
		}
		l.object = put(l.object, copyOf, quote(c.Name))
		return replace(files, s.Own, l.without().with(s.Entry).render()), nil
	}
	c, err := effective(files, s)
	if err != nil {
		return nil, err
	}
	if c.single == nil {
		if err := speaks(c); err != nil {
			return nil, err
		}
		return replace(files, c.Name, c.list.with(s.Entry).render()), nil
	}
	// One plugin cannot be chained to: a list takes its place, before the original steps aside.
	to := converted(c.Name)
	if old := find(files, to); old != nil && !ours(*old) {
		// Somebody else's list, which the file in effect hides and will go on to hide.
		to = strings.TrimSuffix(to, ".conflist") + "-ambit.conflist"
	}
	return append(replace(files, to, listOf(c.single).with(s.Entry).render()), Change{Name: c.Name, Old: c.Data, To: c.Name + saved}), nil
}

// speaks refuses lists of versions without chains.
func speaks(c conf) error {
	v := text(c.list.object, "cniVersion")
	if v == "" || strings.HasPrefix(v, "0.1.") || strings.HasPrefix(v, "0.2.") {
		return fmt.Errorf("%s is of CNI version %q, in which results are not passed on from plugin to plugin: it has to say 0.3.1 or later", c.Name, v)
	}
	return nil
}

// Undo says what is to be changed for the folder to be without the plugin.
func Undo(files []File, s Settings) []Change {
	var out []Change
	for _, f := range files {
		original, kept := strings.CutSuffix(f.Name, saved)
		switch {
		case !kept || !IsConf(original):
		case find(files, original) == nil:
			out = append(out, Change{Name: f.Name, Old: f.Data, To: original})
		default:
			out = append(out, Change{Name: f.Name, Old: f.Data})
		}
	}
	for _, f := range files {
		if !IsConf(f.Name) || !ours(f) {
			continue
		}
		switch {
		case whole(f), isConverted(files, f.Name):
			out = append(out, Change{Name: f.Name, Old: f.Data})
		default:
			c, _ := parse(f) // ours says that it can be
			if l := c.list.without(); len(l.plugins) > 0 {
				out = append(out, Change{Name: f.Name, Old: f.Data, New: l.render()})
			} else {
				out = append(out, Change{Name: f.Name, Old: f.Data})
			}
		}
	}
	return out
}

// isConverted reports whether a list stands in for a file that stepped aside.
func isConverted(files []File, name string) bool {
	return slices.ContainsFunc(files, func(f File) bool {
		original, kept := strings.CutSuffix(f.Name, saved)
		to := converted(original)
		return kept && (to == name || strings.TrimSuffix(to, ".conflist")+"-ambit.conflist" == name)
	})
}

// ours reports whether the plugin has an entry in the file.
func ours(f File) bool {
	c, err := parse(f)
	if err != nil {
		return false
	}
	return c.list.has() || c.single != nil && text(c.single, "type") == Type
}

// converted is the name of the list that takes the place of a single configuration.
func converted(name string) string { return strings.TrimSuffix(name, filepath.Ext(name)) + ".conflist" }

func find(files []File, name string) *File {
	for i := range files {
		if files[i].Name == name {
			return &files[i]
		}
	}
	return nil
}

// replace is the change that makes a file say what it should, if it does not.
func replace(files []File, name string, data []byte) []Change {
	old := find(files, name)
	switch {
	case old == nil:
		return []Change{{Name: name, New: data}}
	case same(old.Data, data):
		return nil
	}
	return []Change{{Name: name, Old: bytes.Clone(old.Data), New: data}}
}

func renderEntry(entry json.RawMessage) []byte {
	o, err := parseObject(entry)
	if err != nil {
		return entry
	}
	if get(o, "name") == nil {
		o = put(o, "name", quote(Type))
	}
	return render(put(o, "cniVersion", quote("0.3.1")))
}
