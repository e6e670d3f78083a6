package intake

import (
	"fmt"
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// goShape is the shape of a Go struct as its json tags tell it.
type goShape struct {
	shape
	fields map[string][]int // index paths, embedded structs included
}

var (
	nodeType       = reflect.TypeFor[*yaml.Node]()
	timeType       = reflect.TypeFor[metav1.Time]()
	microTimeType  = reflect.TypeFor[metav1.MicroTime]()
	durationType   = reflect.TypeFor[metav1.Duration]()
	quantityType   = reflect.TypeFor[resource.Quantity]()
	intOrStrType   = reflect.TypeFor[intstr.IntOrString]()
	fieldsType     = reflect.TypeFor[metav1.FieldsV1]()
	ownUnmarshaler = reflect.TypeFor[interface{ UnmarshalJSON([]byte) error }]()
)

func (d *Decoder) shapeOf(t reflect.Type) *goShape {
	if s, ok := d.shapes.Load(t); ok {
		return s.(*goShape)
	}
	s := &goShape{fields: make(map[string][]int)}
	collectFields(t, nil, s.fields)
	for name := range s.fields {
		s.names = append(s.names, name)
	}
	slices.Sort(s.names)
	s.child = func(name string) *shape {
		ft := t.FieldByIndex(s.fields[name]).Type
		for ft.Kind() == reflect.Pointer || ft.Kind() == reflect.Slice {
			ft = ft.Elem()
		}
		if ft.Kind() != reflect.Struct || reflect.PointerTo(ft).Implements(ownUnmarshaler) {
			return nil
		}
		return &d.shapeOf(ft).shape
	}
	got, _ := d.shapes.LoadOrStore(t, s)
	return got.(*goShape)
}

func collectFields(t reflect.Type, at []int, into map[string][]int) {
	for i := range t.NumField() {
		f := t.Field(i)
		name, opts, _ := strings.Cut(f.Tag.Get("json"), ",")
		index := append(slices.Clone(at), i)
		switch {
		case name == "-" || !f.IsExported():
		case name == "" && f.Anonymous, strings.Contains(opts, "inline"):
			collectFields(f.Type, index, into)
		case name != "":
			into[name] = index
		}
	}
}

// object reads the whole root into a pointer to a Go struct of Kubernetes' kind.
func (r *reader) object(into any) {
	r.value(r.root, reflect.ValueOf(into).Elem())
}

// value reads a node into a Go value. Null leaves it as it is, as JSON decoding does.
func (r *reader) value(n *yaml.Node, v reflect.Value) {
	n = follow(n)
	if !r.spend(n) {
		return
	}
	k := kindOf(n)
	if k == null {
		return
	}
	switch v.Kind() {
	case reflect.Pointer:
		if v.Type() == nodeType {
			v.Set(reflect.ValueOf(n))
			return
		}
		v.Set(reflect.New(v.Type().Elem()))
		r.value(n, v.Elem())
	case reflect.Struct:
		r.structure(n, k, v)
	case reflect.Map:
		r.goMap(n, k, v)
	case reflect.Slice:
		r.slice(n, k, v)
	case reflect.String:
		if k != text {
			r.mismatch(n, wantText)
			return
		}
		v.SetString(n.Value)
	case reflect.Bool:
		if k != boolean {
			r.mismatch(n, wantBool)
			return
		}
		v.SetBool(truth(n.Value))
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		if i, ok := r.integer(n, k); ok {
			if v.OverflowInt(i) {
				r.outOfRange(n)
				return
			}
			v.SetInt(i)
		}
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		if i, ok := r.integer(n, k); ok {
			if i < 0 || v.OverflowUint(uint64(i)) {
				r.outOfRange(n)
				return
			}
			v.SetUint(uint64(i))
		}
	case reflect.Float32, reflect.Float64:
		f, err := strconv.ParseFloat(n.Value, 64)
		if err != nil || k != integer && k != float {
			r.mismatch(n, "a number")
			return
		}
		v.SetFloat(f)
	}
	// Anything else is an interface: none of the kinds we read has one that matters here.
}

func truth(s string) bool {
	switch strings.ToLower(s) {
	case "true", "y", "yes", "on":
		return true
	}
	return false
}

func (r *reader) outOfRange(n *yaml.Node) {
	fix := "write a smaller number"
	if strings.HasPrefix(n.Value, "-") {
		fix = "write a number that is not negative"
	}
	r.refuseLine(n.Line, r.here(), "the number "+clip(n.Value)+" is out of range", fix)
}

func (r *reader) integer(n *yaml.Node, k kind) (int64, bool) {
	switch k {
	case integer:
		if i, err := strconv.ParseInt(strings.ReplaceAll(n.Value, "_", ""), 0, 64); err == nil {
			return i, true
		}
		r.outOfRange(n)
		return 0, false
	case float:
		// JSON does not tell 80.0 from 80.
		if f, err := strconv.ParseFloat(n.Value, 64); err == nil && f == math.Trunc(f) && math.Abs(f) < 1<<53 {
			return int64(f), true
		}
	}
	r.mismatch(n, wantNumber)
	return 0, false
}

func (r *reader) structure(n *yaml.Node, k kind, v reflect.Value) {
	if r.special(n, k, v) {
		return
	}
	if k != mapping {
		r.mismatch(n, wantMapping)
		return
	}
	sh := r.d.shapeOf(v.Type())
	r.shapes = append(r.shapes, &sh.shape)
	for _, p := range r.pairs(n) {
		index, ok := sh.fields[p.key.Value]
		if !ok {
			r.unknown(p.key, &sh.shape)
			continue
		}
		r.enter(p.key.Value)
		r.value(p.value, v.FieldByIndex(index))
		r.leave()
	}
	r.shapes = r.shapes[:len(r.shapes)-1]
}

// special reads the structs that are not written as mappings.
func (r *reader) special(n *yaml.Node, k kind, v reflect.Value) bool {
	switch v.Type() {
	case timeType, microTimeType:
		t, err := time.Parse(time.RFC3339Nano, n.Value)
		if k != text || err != nil {
			r.refuseLine(n.Line, r.here(), "takes a time, not "+describe(n), "write it like 2026-01-02T03:04:05Z")
			return true
		}
		if v.Type() == timeType {
			v.Set(reflect.ValueOf(metav1.Time{Time: t}))
		}
	case durationType:
		if _, err := time.ParseDuration(n.Value); k != text || err != nil {
			r.refuseLine(n.Line, r.here(), "takes a duration, not "+describe(n), "write it like 30s")
		}
	case quantityType:
		// Only looked at: no quantity steers traffic.
		if k == text || k == integer || k == float {
			if _, err := resource.ParseQuantity(n.Value); err == nil {
				return true
			}
		}
		r.refuseLine(n.Line, r.here(), "takes a quantity, not "+describe(n), "write it like 500m, 2 or 128Mi")
	case intOrStrType:
		switch k {
		case integer:
			if i, ok := r.integer(n, k); ok {
				if i != int64(int32(i)) {
					r.outOfRange(n)
					return true
				}
				v.Set(reflect.ValueOf(intstr.FromInt32(int32(i))))
			}
		case text:
			v.Set(reflect.ValueOf(intstr.FromString(n.Value)))
		default:
			r.mismatch(n, "a number or a name")
		}
	case fieldsType:
	default:
		// Other types that read themselves hold free text or raw JSON, and none of them matters to the mesh.
		return v.CanAddr() && v.Addr().Type().Implements(ownUnmarshaler)
	}
	return true
}

func (r *reader) goMap(n *yaml.Node, k kind, v reflect.Value) {
	if k != mapping {
		r.mismatch(n, wantMapping)
		return
	}
	t := v.Type()
	if t.Key().Kind() != reflect.String {
		return
	}
	pairs := r.pairs(n)
	m := reflect.MakeMapWithSize(t, len(pairs))
	r.shapes = append(r.shapes, nil)
	for _, p := range pairs {
		r.enter(p.key.Value)
		e := reflect.New(t.Elem()).Elem()
		r.value(p.value, e)
		m.SetMapIndex(reflect.ValueOf(p.key.Value).Convert(t.Key()), e)
		r.leave()
	}
	r.shapes = r.shapes[:len(r.shapes)-1]
	v.Set(m)
}

func (r *reader) slice(n *yaml.Node, k kind, v reflect.Value) {
	if v.Type().Elem().Kind() == reflect.Uint8 {
		if b, ok := r.base64(n, k); ok {
			v.SetBytes(b)
		}
		return
	}
	if k != list {
		r.mismatch(n, wantList)
		return
	}
	s := reflect.MakeSlice(v.Type(), len(n.Content), len(n.Content))
	r.shapes = append(r.shapes, nil)
	for i, e := range n.Content {
		r.enterIndex(i)
		if kindOf(follow(e)) == null {
			r.refuseLine(e.Line, r.here(), "the entry is empty", "remove the dash or write something behind it")
		}
		r.value(e, s.Index(i))
		r.leave()
	}
	r.shapes = r.shapes[:len(r.shapes)-1]
	v.Set(s)
}

// count writes "1 thing" or "n things".
func count(n int, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return fmt.Sprintf("%d %ss", n, thing)
}
