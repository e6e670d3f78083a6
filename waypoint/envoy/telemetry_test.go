package envoy

import (
	"strings"
	"testing"
)

func TestCheckFormat(t *testing.T) {
	for format, ok := range map[string]bool{
		"":                        true,
		"plain":                   true,
		"100%%":                   true,
		"%REQ(:METHOD)%":          true,
		"%REQ(X-A?:PATH):10% end": true,
		"%START_TIME(%Y/%m/%d %H:%M)% then %REQ(a)%": true,
		"%DURATION% ms, %PROTOCOL%":                  true,
		"%DYNAMIC_METADATA(a.b:c:d)%":                true,
		"%REQ%":                                      false,
		"%FILTER_STATE(a.b:PLAIN)%":                  true,
		"%FILTER_STATE(a.b:NOPE)%":                   false,
		"%METADATA(CLUSTER:a:b)%":                    true,
		"%METADATA(NOWHERE:a:b)%":                    false,
		"%DURATION(x)%":                              false,
		"%REQ(a?b?c)%":                               false,
		"%REQ()%":                                    false,
		"%":                                          false,
		"50% off":                                    false,
		"%ENVIRONMENT(HOME)%":                        true,
		"%nope%":                                     false,
		strings.Repeat("x", maxFormat+1):             false,
	} {
		if err := checkFormat(format); (err == nil) != ok {
			t.Errorf("%.40q: %v, want ok %v", format, err, ok)
		}
	}
	for _, format := range defaultFields {
		if err := checkFormat(format); err != nil {
			t.Error(err)
		}
	}
	if err := checkFormat(defaultText); err != nil {
		t.Error(err)
	}
}

func TestCheckCEL(t *testing.T) {
	for expression, ok := range map[string]bool{
		"response.code >= 400":                                 true,
		`request.headers["x-a"] == 'b' || !has(request.path)`:  true,
		`connection.mtls && request.url_path.startsWith("/x")`: true,
		`response.code in [500, 502] ? true : false`:           true,
		`size(request.path) + 1 > -2 * (3 % 4)`:                true,
		`request.auth.claims['a.b']`:                           true,
		"":                                                     false,
		"response.code >=":                                     false,
		"(response.code":                                       false,
		"response.code >= 400 400":                             false,
		"system('x')":                                          false,
		"a.exec('x')":                                          false,
		`"unterminated`:                                        false,
		"a; b":                                                 false,
		"[1, 2":                                                false,
		strings.Repeat("(", 100) + "1" + strings.Repeat(")", 100): false,
		strings.Repeat("a+", maxCEL) + "a":                        false,
	} {
		if err := checkCEL(expression); (err == nil) != ok {
			t.Errorf("%.40q: %v, want ok %v", expression, err, ok)
		}
	}
}

// FuzzCheckCEL: whatever a user writes is read to its end.
func FuzzCheckCEL(f *testing.F) {
	f.Add(`response.code >= 400 && request.headers["a"].contains('b')`)
	f.Add("a ? b : [c, -d]")
	f.Fuzz(func(_ *testing.T, s string) { _ = checkCEL(s) })
}

func FuzzCheckFormat(f *testing.F) {
	f.Add(defaultText)
	f.Fuzz(func(_ *testing.T, s string) { _ = checkFormat(s) })
}
