package gatewayapi

import (
	"fmt"
	"go/ast"
	"go/token"
	"strconv"
	"strings"
)

// evaluator reads expressions that are data: literals, names given to them, and their sums.
type evaluator struct {
	names map[string]any
	err   error
}

// value is a string, a number, a bool, a list or a map by name.
func (e *evaluator) value(x ast.Expr) any {
	switch x := x.(type) {
	case *ast.BasicLit:
		return e.literal(x)
	case *ast.UnaryExpr:
		if x.Op == token.AND {
			return e.value(x.X)
		}
	case *ast.BinaryExpr:
		a, ok := e.value(x.X).(string)
		b, too := e.value(x.Y).(string)
		if ok && too && x.Op == token.ADD {
			return a + b
		}
	case *ast.CompositeLit:
		return e.composite(x)
	case *ast.Ident:
		switch v, ok := e.names[x.Name]; {
		case ok:
			return v
		case x.Name == "true" || x.Name == "false":
			return x.Name == "true"
		}
	case *ast.SelectorExpr:
		switch name := typeName(x); name {
		case "suite.MeshNamespace":
			return Namespace
		case "suite.MeshConsumerNamespace":
			return ConsumerNamespace
		case "v2.Address":
			return PodAddress
		default:
			if feature, ok := strings.CutPrefix(name, "features.Support"); ok {
				return feature
			}
		}
	case *ast.CallExpr: // brackets around an IPv6 address, when it is one
		if typeName(x.Fun) == "http.Ipv6SafeHost" && len(x.Args) == 1 {
			return e.value(x.Args[0])
		}
	}
	if e.err == nil {
		e.err = fmt.Errorf("an expression that is no data: %T %s", x, typeName(x))
	}
	return nil
}

func (e *evaluator) literal(x *ast.BasicLit) any {
	switch x.Kind {
	case token.STRING:
		s, err := strconv.Unquote(x.Value)
		if err == nil {
			return s
		}
	case token.INT, token.FLOAT:
		f, err := strconv.ParseFloat(x.Value, 64)
		if err == nil {
			return f
		}
	}
	e.err = fmt.Errorf("a literal that is no data: %s", x.Value)
	return nil
}

// composite is a list, or else a map or struct by key.
func (e *evaluator) composite(x *ast.CompositeLit) any {
	if _, ok := x.Type.(*ast.ArrayType); ok {
		out := []any{}
		for _, el := range x.Elts {
			out = append(out, e.value(el))
		}
		return out
	}
	_, isMap := x.Type.(*ast.MapType)
	out := map[string]any{}
	for _, el := range x.Elts {
		kv, ok := el.(*ast.KeyValueExpr)
		if !ok {
			e.err = fmt.Errorf("a struct without names of fields")
			return nil
		}
		var key string
		if id, ok := kv.Key.(*ast.Ident); ok && !isMap {
			key = id.Name
		} else {
			key, _ = e.value(kv.Key).(string)
		}
		// An embedded Request lies flat, as JSON has it.
		if inner, ok := kv.Value.(*ast.CompositeLit); ok && key == "Request" && typeName(x.Type) == "http.ExpectedRequest" {
			for k, v := range e.composite(inner).(map[string]any) {
				out[k] = v
			}
			continue
		}
		out[key] = e.value(kv.Value)
	}
	return out
}

// typeName writes a type or selector as in source.
func typeName(x ast.Expr) string {
	switch x := x.(type) {
	case *ast.Ident:
		return x.Name
	case *ast.SelectorExpr:
		return typeName(x.X) + "." + x.Sel.Name
	case *ast.ArrayType:
		return "[]" + typeName(x.Elt)
	case *ast.MapType:
		return "map[" + typeName(x.Key) + "]" + typeName(x.Value)
	}
	return ""
}

func texts(v any) []string {
	var out []string
	list, _ := v.([]any)
	for _, x := range list {
		if s, ok := x.(string); ok {
			out = append(out, s)
		}
	}
	return out
}
