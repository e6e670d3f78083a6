package object

import (
	"encoding/json"
	"maps"
	"math/rand/v2"
	"strings"
	"testing"
	"unsafe"
)

// Labels must do what a map does.
func TestLabelsAgainstMap(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	words := []string{"", "a", "b", "app", "version", strings.Repeat("long", 60), "a=b,c", "\x00", "é"}
	random := func() map[string]string {
		m := map[string]string{}
		for range rng.IntN(6) {
			m[words[rng.IntN(len(words))]] = words[rng.IntN(len(words))]
		}
		return m
	}
	for range 5000 {
		a, b := random(), random()
		la, lb := MakeLabels(a), MakeLabels(b)
		if (la == lb) != maps.Equal(a, b) {
			t.Fatalf("%v == %v is %v", a, b, la == lb)
		}
		if la.Len() != len(a) || la.Empty() != (len(a) == 0) || !maps.Equal(a, maps.Collect(la.All())) {
			t.Fatalf("%v became %v", a, la)
		}
		for _, w := range words {
			v, ok := a[w]
			if lv, lok := la.Lookup(w); lv != v || lok != ok || la.Has(w) != ok || la.Get(w) != v {
				t.Fatalf("%q in %v: got %q %v", w, a, lv, lok)
			}
		}
		contained := true
		for k, v := range b {
			have, ok := a[k]
			contained = contained && ok && have == v
		}
		if la.Contains(lb) != contained {
			t.Fatalf("%v contains %v: got %v", a, b, !contained)
		}
	}
}

func TestLabelsAreSmall(t *testing.T) {
	if n := unsafe.Sizeof(Labels{}); n != 8 {
		t.Errorf("%d bytes", n)
	}
}

func TestLabelsJSON(t *testing.T) {
	in := LabelsOf("b", "2", "a", "1")
	text, err := json.Marshal(in)
	if err != nil || string(text) != `{"a":"1","b":"2"}` {
		t.Errorf("%s %v", text, err)
	}
	var out Labels
	if err := json.Unmarshal(text, &out); err != nil || out != in {
		t.Errorf("%v %v", out, err)
	}
	if in.String() != "a=1,b=2" {
		t.Error(in)
	}
}

func TestLabelSelector(t *testing.T) {
	l := LabelsOf("app", "web", "tier", "front")
	req := func(key string, op Operator, values ...string) LabelSelector {
		return LabelSelector{Expressions: []Requirement{{key, op, values}}}
	}
	for name, tc := range map[string]struct {
		s    LabelSelector
		want bool
	}{
		"empty":           {LabelSelector{}, true},
		"labels":          {LabelSelector{MatchLabels: LabelsOf("app", "web")}, true},
		"other labels":    {LabelSelector{MatchLabels: LabelsOf("app", "db")}, false},
		"in":              {req("app", In, "db", "web"), true},
		"not among":       {req("app", In, "db"), false},
		"in, missing":     {req("x", In, "db"), false},
		"not in":          {req("app", NotIn, "db"), true},
		"not in, is":      {req("app", NotIn, "web"), false},
		"not in, missing": {req("x", NotIn, "web"), true},
		"exists":          {req("app", Exists), true},
		"exists, missing": {req("x", Exists), false},
		"does not exist":  {req("x", DoesNotExist), true},
		"does exist":      {req("app", DoesNotExist), false},
		"unknown":         {req("app", "Like", "w*"), false},
	} {
		if got := tc.s.Matches(l); got != tc.want {
			t.Errorf("%s: got %v", name, got)
		}
	}
	if (Selector{}).Matches(l) || !(Selector{Present: true}).Matches(l) {
		t.Error("an absent selector selects nothing, an empty one everything")
	}
}

func TestKinds(t *testing.T) {
	for k := KindNamespace; k <= KindExtensionPolicy; k++ {
		if got, ok := ParseKind(k.String()); !ok || got != k {
			t.Errorf("%v became %v", k, got)
		}
	}
	if _, ok := ParseKind(""); ok {
		t.Error("the empty kind is none")
	}
	for key, keep := range map[string]bool{
		"istio.io/dry-run": true, "ambient.istio.io/redirection": true, "ambit.io/x": true, "x.ambit.io/y": true,
		"lab.ambit.io/netns": false, "notistio.io/x": false, "kubectl.kubernetes.io/last-applied-configuration": false, "plain": false,
	} {
		if KeepAnnotation(key) != keep {
			t.Error(key)
		}
	}
}
