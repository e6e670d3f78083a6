package chain

import (
	"bytes"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const (
	entry  = `{"type":"ambit-cni","n":1}`
	bridge = `{"type":"bridge"}`
)

func conflist(plugins ...string) string {
	return `{"cniVersion":"1.0.0","name":"net","plugins":[` + strings.Join(plugins, ",") + `]}`
}

// copied is a list as a copy of ours has it.
func copied(list string) string {
	return strings.TrimSuffix(list, "}") + `,"ambit.io/copyOf":"10-a.conflist"}`
}

// folder is files by name.
type folder map[string]string

func (f folder) files() []File {
	var out []File
	for name, data := range f {
		out = append(out, File{name, []byte(data)})
	}
	slices.SortFunc(out, func(a, b File) int { return strings.Compare(a.Name, b.Name) })
	return out
}

// after makes the changes.
func (f folder) after(changes []Change) folder {
	out := folder{}
	for k, v := range f {
		out[k] = v
	}
	for _, c := range changes {
		switch {
		case c.To != "":
			out[c.To] = out[c.Name]
			delete(out, c.Name)
		case c.New == nil:
			delete(out, c.Name)
		default:
			out[c.Name] = string(c.New)
		}
	}
	return out
}

// compact takes the blanks out of what is JSON.
func (f folder) compact() folder {
	out := folder{}
	for k, v := range f {
		out[k] = v
		var b bytes.Buffer
		if json.Compact(&b, []byte(v)) == nil {
			out[k] = b.String()
		}
	}
	return out
}

func TestPlan(t *testing.T) {
	with := func(s Settings) Settings { s.Entry = json.RawMessage(entry); return s }
	owned := with(Settings{Mode: Owned, Own: "02-ambit.conflist"})
	for name, c := range map[string]struct {
		s        Settings
		in, want folder
		// undone is what is left when the plugin is taken away; nil means what there was.
		undone folder
	}{
		"a list": {with(Settings{}),
			folder{"10-a.conflist": conflist(bridge)},
			folder{"10-a.conflist": conflist(bridge, entry)}, nil},
		"the first valid file counts": {with(Settings{}),
			folder{"00-broken.conflist": `{"name":"x"`, "01-empty.conflist": `{"name":"x","plugins":[]}`, "02-anonymous.conflist": `{"plugins":[{"type":"a"}]}`,
				"03-note.txt": conflist(bridge), "05-untyped.conf": `{"name":"x"}`, "10-a.conflist": conflist(bridge), "20-b.conflist": conflist(bridge)},
			folder{"00-broken.conflist": `{"name":"x"`, "01-empty.conflist": `{"name":"x","plugins":[]}`, "02-anonymous.conflist": `{"plugins":[{"type":"a"}]}`,
				"03-note.txt": conflist(bridge), "05-untyped.conf": `{"name":"x"}`, "10-a.conflist": conflist(bridge, entry), "20-b.conflist": conflist(bridge)}, nil},
		"an entry of an earlier agent keeps its place": {with(Settings{}),
			folder{"10-a.conflist": conflist(bridge, `{"type":"ambit-cni","n":0}`, `{"type":"portmap"}`, `{"type":"ambit-cni"}`)},
			folder{"10-a.conflist": conflist(bridge, entry, `{"type":"portmap"}`)},
			folder{"10-a.conflist": conflist(bridge, `{"type":"portmap"}`)}},
		"what nobody knows stays, in its order": {with(Settings{}),
			folder{"10-a.conflist": `{"zeta":1.50,"name":"net","cniVersion":"0.3.1","plugins":[{"type":"x","big":12345678901234567890}],"alpha":"<&>"}`},
			folder{"10-a.conflist": `{"zeta":1.50,"name":"net","cniVersion":"0.3.1","plugins":[{"type":"x","big":12345678901234567890},` + entry + `],"alpha":"<&>"}`}, nil},
		"a name said twice": {with(Settings{}),
			folder{"10-a.conflist": `{"name":"n","cniVersion":"1.0.0","plugins":[{"type":"old"}],"plugins":[{"type":"new"}]}`},
			folder{"10-a.conflist": `{"name":"n","cniVersion":"1.0.0","plugins":[{"type":"old"}],"plugins":[{"type":"new"},` + entry + `]}`}, nil},
		"a single plugin": {with(Settings{}),
			folder{"10-a.conf": `{"cniVersion":"0.4.0","name":"mine","type":"bridge"}`},
			folder{"10-a.conf.ambit-saved": `{"cniVersion":"0.4.0","name":"mine","type":"bridge"}`,
				"10-a.conflist": `{"name":"mine","cniVersion":"0.4.0","plugins":[{"cniVersion":"0.4.0","name":"mine","type":"bridge"},` + entry + `]}`}, nil},
		"a single plugin without a name": {with(Settings{}),
			folder{"10-a.conf": `{"type":"bridge"}`},
			folder{"10-a.conf.ambit-saved": `{"type":"bridge"}`,
				"10-a.conflist": `{"name":"k8s-pod-network","cniVersion":"0.3.1","plugins":[{"type":"bridge"},` + entry + `]}`}, nil},
		"a single plugin that is written again": {with(Settings{}),
			folder{"10-a.conf": `{"name":"n","type":"new"}`, "10-a.conf.ambit-saved": `{"name":"n","type":"old"}`,
				"10-a.conflist": `{"name":"n","cniVersion":"0.3.1","plugins":[{"name":"n","type":"old"},` + entry + `]}`},
			folder{"10-a.conf.ambit-saved": `{"name":"n","type":"new"}`,
				"10-a.conflist": `{"name":"n","cniVersion":"0.3.1","plugins":[{"name":"n","type":"new"},` + entry + `]}`},
			folder{"10-a.conf": `{"name":"n","type":"new"}`}},
		"a single plugin beside a list of the same name": {with(Settings{}),
			folder{"10-a.conf": `{"name":"n","type":"bridge"}`, "10-a.conflist": conflist(bridge)},
			folder{"10-a.conf.ambit-saved": `{"name":"n","type":"bridge"}`, "10-a.conflist": conflist(bridge),
				"10-a-ambit.conflist": `{"name":"n","cniVersion":"0.3.1","plugins":[{"name":"n","type":"bridge"},` + entry + `]}`}, nil},
		"a name that is given": {with(Settings{Name: "20-b.conflist"}),
			folder{"10-a.conflist": conflist(bridge), "20-b.conflist": conflist(bridge)},
			folder{"10-a.conflist": conflist(bridge), "20-b.conflist": conflist(bridge, entry)}, nil},
		"a name of a single plugin that is given": {with(Settings{Name: "20-b.conf"}),
			folder{"10-a.conflist": conflist(bridge), "20-b.conf": `{"name":"n","type":"x"}`},
			folder{"10-a.conflist": conflist(bridge), "20-b.conf.ambit-saved": `{"name":"n","type":"x"}`,
				"20-b.conflist": `{"name":"n","cniVersion":"0.3.1","plugins":[{"name":"n","type":"x"},` + entry + `]}`}, nil},
		"a copy of our own": {owned,
			folder{"10-a.conflist": conflist(bridge)},
			folder{"02-ambit.conflist": copied(conflist(bridge, entry)), "10-a.conflist": conflist(bridge)}, nil},
		"a copy of a single plugin": {owned,
			folder{"10-a.conf": `{"name":"n","type":"x"}`},
			folder{"02-ambit.conflist": `{"name":"n","cniVersion":"0.3.1","ambit.io/copyOf":"10-a.conf","plugins":[{"name":"n","type":"x"},` + entry + `]}`,
				"10-a.conf": `{"name":"n","type":"x"}`}, nil},
		"a copy of our own follows": {owned,
			folder{"02-ambit.conflist": copied(conflist(`{"type":"old"}`, entry)), "10-a.conflist": conflist(`{"type":"new"}`)},
			folder{"02-ambit.conflist": copied(conflist(`{"type":"new"}`, entry)), "10-a.conflist": conflist(`{"type":"new"}`)},
			folder{"10-a.conflist": conflist(`{"type":"new"}`)}},
		"from a copy of our own to chained": {with(Settings{}),
			folder{"02-ambit.conflist": copied(conflist(`{"type":"old"}`, entry)), "10-a.conflist": conflist(bridge), "YYY-ambit-cni.conf": `{"type":"ambit-cni"}`},
			folder{"10-a.conflist": conflist(bridge, entry)}, folder{"10-a.conflist": conflist(bridge)}},
		"from one name to another": {owned,
			folder{"01-ambit.conflist": copied(conflist(bridge, entry)), "10-a.conflist": conflist(bridge)},
			folder{"02-ambit.conflist": copied(conflist(bridge, entry)), "10-a.conflist": conflist(bridge)}, folder{"10-a.conflist": conflist(bridge)}},
		"alone": {with(Settings{Mode: Standalone, Own: "YYY-ambit-cni.conf"}),
			folder{"10-a.conflist": conflist(bridge)},
			folder{"10-a.conflist": conflist(bridge), "YYY-ambit-cni.conf": `{"type":"ambit-cni","n":1,"name":"ambit-cni","cniVersion":"0.3.1"}`}, nil},
	} {
		changes, err := Plan(c.in.files(), c.s)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		done := c.in.after(changes)
		if diff := cmp.Diff(c.want, done.compact()); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
		if again, err := Plan(done.files(), c.s); err != nil || len(again) != 0 {
			t.Errorf("%s: not settled: %v %v", name, again, err)
		}
		undone := c.undone
		if undone == nil {
			undone = c.in
		}
		if diff := cmp.Diff(undone, done.after(Undo(done.files(), c.s)).compact()); diff != "" {
			t.Errorf("%s: undone: %s", name, diff)
		}
	}
}

func TestPlanRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		s    Settings
		in   folder
		want string
	}{
		"nothing there":          {Settings{}, folder{}, "has not written one yet"},
		"nothing valid":          {Settings{}, folder{"10-a.conflist": "{"}, "10-a.conflist"},
		"something behind JSON":  {Settings{}, folder{"10-a.conflist": conflist(bridge) + "x"}, "10-a.conflist"},
		"the name is not there":  {Settings{Name: "20-b.conflist"}, folder{"10-a.conflist": conflist(bridge)}, "has not written one yet"},
		"a version without list": {Settings{}, folder{"10-a.conflist": `{"cniVersion":"0.2.0","name":"n","plugins":[{"type":"a"}]}`}, "0.3.1 or later"},
		"our own is not first":   {Settings{Mode: Owned, Own: "02-ambit.conflist"}, folder{"01-a.conflist": conflist(bridge)}, "comes before"},
		"somebody else's alone":  {Settings{Mode: Standalone, Own: "00-multus.conf"}, folder{"00-multus.conf": `{"type":"multus","name":"m"}`}, "00-multus.conf is somebody else's"},
	} {
		changes, err := Plan(c.in.files(), c.s)
		if err == nil || !strings.Contains(err.Error(), c.want) || len(changes) > 0 {
			t.Errorf("%s: %v %v", name, changes, err)
		}
	}
	if _, err := Plan(nil, Settings{}); !errors.Is(err, ErrNoNetwork) {
		t.Error(err)
	}
}

// Whatever a folder holds: nothing panics, a plan settles, what runtimes go by stays with all its plugins, and taking the plugin away
// leaves nothing of ours.
func FuzzPlan(f *testing.F) {
	f.Add("10-a.conflist", conflist(bridge, entry), "10-a.conf", `{"type":"x"}`, 0)
	f.Add("10-a.json", `{"type":"x","name":"n"}`, "02-own.conflist", conflist(bridge), 1)
	f.Add("10-a.conflist", conflist(bridge), "02-own.conf", `{"type":"x","name":"n"}`, 2)
	f.Add("a.conflist", `{"plugins":[{"type":"ambit-cni"}],"name":"n","cniVersion":"1.0.0","name":"m"}`, "b", "", 2)
	f.Fuzz(func(t *testing.T, name1, data1, name2, data2 string, mode int) {
		if strings.HasSuffix(name1, saved) || strings.HasSuffix(name2, saved) || strings.Contains(name1+name2, "-ambit.") {
			return // our own names
		}
		s := Settings{Mode: Mode(uint(mode) % 3), Own: "02-own.conflist", Entry: json.RawMessage(entry)}
		if s.Mode == Standalone {
			s.Own = "02-own.conf" // one plugin is no list
		}
		in := folder{name1: data1, name2: data2}
		before, err := effective(in.files(), s)
		if err != nil {
			return
		}
		changes, err := Plan(in.files(), s)
		if err != nil {
			return
		}
		done := in.after(changes)
		if again, err := Plan(done.files(), s); err != nil || len(again) != 0 {
			t.Fatalf("not settled: %v %v: %v", again, err, done)
		}
		if s.Mode == Chained {
			after, err := effective(done.files(), s)
			if err != nil || !after.list.has() {
				t.Fatalf("not in effect: %v %v", done, err)
			}
			want := before.list.without().plugins
			if before.single != nil {
				want = []json.RawMessage{before.Data}
			}
			got := after.list.without().plugins
			if len(got) != len(want) {
				t.Fatalf("%d plugins became %d: %v", len(want), len(got), done)
			}
			for i := range want {
				if !same(got[i], want[i]) && before.single == nil {
					t.Fatalf("plugin %d became %s", i, got[i])
				}
			}
		}
		for name, data := range done.after(Undo(done.files(), s)) {
			if IsConf(name) && ours(File{name, []byte(data)}) {
				t.Fatalf("%s is left: %s", name, data)
			}
		}
	})
}
