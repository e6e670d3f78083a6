package stories

import (
	"cmp"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
)

// l7 writes a document of the shop.
func l7(apiVersion, kind, name, spec string) string {
	return fmt.Sprintf("apiVersion: %s\nkind: %s\nmetadata: {name: %s, namespace: shop}\nspec: %s\n---\n", apiVersion, kind, name, spec)
}

const (
	istioNet  = "networking.istio.io/v1"
	istioSec  = "security.istio.io/v1"
	gatewayV1 = "gateway.networking.k8s.io/v1"
	policyV1  = "policy.ambit.io/v1alpha1"
	webTarget = `targetRefs: [{group: "", kind: Service, name: web}]`
	webParent = `parentRefs: [{group: "", kind: Service, name: web}]`
)

// mistakeL7 is a document that is wrong, and words that whoever wrote it is told.
type mistakeL7 struct {
	name, text, says string
}

// mistakesL7 lists them. At files there is a server of a Wasm module that is none.
func mistakesL7(files string) []mistakeL7 {
	vs := func(http string) string { return l7(istioNet, "VirtualService", "bad", "{hosts: [web], "+http+"}") }
	route := func(rest string) string { return vs("http: [{" + rest + "route: [{destination: {host: web}}]}]") }
	dr := func(rest string) string { return l7(istioNet, "DestinationRule", "bad", "{host: web, "+rest+"}") }
	hr := func(rules string) string {
		return l7(gatewayV1, "HTTPRoute", "bad", "{"+webParent+", rules: ["+rules+"]}")
	}
	ap := func(rules string) string {
		return l7(istioSec, "AuthorizationPolicy", "bad", "{"+webTarget+", rules: ["+rules+"]}")
	}
	jwt := func(rules string) string {
		return l7(istioSec, "RequestAuthentication", "bad", "{"+webTarget+", jwtRules: ["+rules+"]}")
	}
	limit := func(rule string) string {
		return l7(policyV1, "LocalRateLimitPolicy", "bad", "{"+webTarget+", rules: ["+rule+"]}")
	}
	extension := func(rest string) string {
		return l7(policyV1, "ExtensionPolicy", "bad", "{"+webTarget+", "+rest+"}")
	}
	return []mistakeL7{
		{"a misspelt field", vs("https: [{route: [{destination: {host: web}}]}]"), "https"},
		{"a misspelt field below", route("retry: {attempts: 3}, "), "retry"},
		{"a number that is none", vs("http: [{route: [{destination: {host: web}, weight: many}]}]"), "weight"},
		{"a negative weight", vs("http: [{route: [{destination: {host: web}, weight: -5}]}]"), "weight"},
		{"no destination", vs("http: [{match: [{uri: {prefix: /}}]}]"), "route"},
		{"an unknown subset", vs("http: [{route: [{destination: {host: web, subset: nowhere}}]}]"), "nowhere"},
		{"an unknown host", vs("http: [{route: [{destination: {host: nobody}}]}]"), "nobody"},
		{"an unknown port", vs("http: [{route: [{destination: {host: web, port: {number: 4711}}}]}]"), "4711"},
		{"a broken regex", route("match: [{uri: {regex: 'a('}}], "), "regex"},
		{"a regex with a lookahead", route("match: [{uri: {regex: '(?!x)y'}}], "), "regex"},
		{"a timeout without unit", route("timeout: '5', "), "timeout"},
		{"a negative timeout", route("timeout: -5s, "), "timeout"},
		{"a fault of 120 %", route("fault: {abort: {httpStatus: 500, percentage: {value: 120}}}, "), "percentage"},
		{"an abort with status 99", route("fault: {abort: {httpStatus: 99, percentage: {value: 1}}}, "), "httpStatus"},
		{"a redirect and a route", route("redirect: {uri: /x}, "), "redirect"},
		{"unknown retry conditions", route("retries: {attempts: 2, retryOn: sometimes}, "), "sometimes"},
		{"a header that is none", route("headers: {request: {set: {'a b': c}}}, "), "a b"},
		{"a header of the protocol", route("headers: {request: {set: {':method': GET}}}, "), ":method"},
		{"a line break in a header", route(`headers: {response: {set: {x: "a\r\nb: c"}}}, `), "x"},
		{"an unknown balancer", dr("trafficPolicy: {loadBalancer: {simple: FAIR}}"), "FAIR"},
		{"a subset without a name", dr("subsets: [{labels: {a: b}}]"), "name"},
		{"a subset twice", dr("subsets: [{name: a, labels: {a: b}}, {name: a, labels: {a: c}}]"), "a"},
		{"ejection of 200 %", dr("trafficPolicy: {outlierDetection: {maxEjectionPercent: 200}}"), "maxEjectionPercent"},
		{"TLS without a certificate", dr("trafficPolicy: {tls: {mode: MUTUAL}}"), "credentialName"},
		{"a backend of another namespace", hr("{backendRefs: [{name: web, namespace: other, port: 80}]}"), "other"},
		{"a backend without port", hr("{backendRefs: [{name: web}]}"), "port"},
		{"a backend of an unknown kind", hr("{backendRefs: [{group: example.com, kind: Bucket, name: web, port: 80}]}"), "Bucket"},
		{"a filter nobody knows", hr("{filters: [{type: Enchant}], backendRefs: [{name: web, port: 80}]}"), "Enchant"},
		{"a filter without its settings", hr("{filters: [{type: RequestRedirect}], backendRefs: [{name: web, port: 80}]}"), "requestRedirect"},
		{"a match regex that breaks", hr("{matches: [{path: {type: RegularExpression, value: '['}}], backendRefs: [{name: web, port: 80}]}"), "value"},
		{"a parent nobody has", strings.Replace(hr("{backendRefs: [{name: web, port: 80}]}"), "name: web}]", "name: nobody}]", 1), "nobody"},
		{"an unknown method", ap("{to: [{operation: {method: [GET]}}]}"), "method"},
		{"a path template that breaks", ap("{to: [{operation: {paths: ['/a/{**}/{*}b']}}]}"), "paths"},
		{"a condition nobody knows", ap("{when: [{key: request.moon, values: [full]}]}"), "request.moon"},
		{"an address that is none", ap("{from: [{source: {remoteIpBlocks: [10.0.0.300]}}]}"), "10.0.0.300"},
		{"a policy for nobody", strings.Replace(ap("{}"), "name: web}]", "name: nobody}]", 1), "nobody"},
		{"an authorizer nobody has", l7(istioSec, "AuthorizationPolicy", "bad", "{"+webTarget+", action: CUSTOM, provider: {name: absent}, rules: [{}]}"), "absent"},
		{"keys that are no JSON", jwt("{issuer: a, jwks: 'nonsense'}"), "jwks"},
		{"keys of no known kind", jwt(`{issuer: a, jwks: '{"keys": [{"kty": "XYZ"}]}'}`), "no key of the set"},
		{"keys at the machine's own address", jwt("{issuer: a, jwksUri: 'http://169.254.169.254/latest'}"), "169.254.169.254"},
		{"no issuer", jwt("{jwks: '{}'}"), "issuer"},
		{"a limit of nothing", limit("{name: a, limit: {requests: 0, per: 1s}}"), "requests"},
		{"a limit without time", limit("{name: a, limit: {requests: 5}}"), "per"},
		{"an extension of no kind", extension("perl: {source: 'exit'}"), "perl"},
		{"a header nobody has", ap("{when: [{key: 'request.headers[a b]', values: [c]}]}"), "a b"},
		{"a substitution without its group", route(`rewrite: {uriRegexRewrite: {match: '^/(a)', rewrite: '/\9'}}, `), "group 9"},
		{"Wasm from nowhere", l7("extensions.istio.io/v1alpha1", "WasmPlugin", "bad", "{"+webTarget+", url: 'file:///nowhere.wasm'}"), "nowhere.wasm"},
		// Only Envoy can tell: what it refuses is refused alone, and named.
		{"Wasm that is none", l7("extensions.istio.io/v1alpha1", "WasmPlugin", "bad", "{"+webTarget+", url: 'http://"+files+":9000/x.wasm'}"), "Unable to create Wasm"},
	}
}

// answersL7 says how requests to the service of a mistake are answered while it stands: as before, if not here.
var answersL7 = map[string]int{
	"an unknown subset": 500, "an unknown host": 500, "an unknown port": 500, "a backend of another namespace": 500,
	"a backend of an unknown kind": 500, "an authorizer nobody has": 403, "Wasm from nowhere": 503, "Wasm that is none": 503,
	"a header nobody has": 403, "a substitution without its group": 500,
}

// said waits until ambitctl's list of what is refused contains a text, and returns it.
func (w *world) said(about string, words ...string) (list string) {
	w.Helper()
	w.eventually(fmt.Sprintf("ambitctl to tell about %s", about), func() error {
		list = w.ambitctl("config", "refused")
		for _, word := range words {
			if !strings.Contains(list, word) {
				return fmt.Errorf("no word of %q in\n%s", word, list)
			}
		}
		return nil
	})
	return list
}

// TestWaypointBadInput applies what tired operators write, by the dozen. Each mistake is named, with its object and words
// that lead to it, by ambitctl; requests to everything else go on as if nothing were, and when it is gone all is well.
func TestWaypointBadInput(t *testing.T) {
	w := startWaypoints(t, options{nodes: 2})
	url := w.shop(1)
	w.handle("shop", "client", 9000, http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
		_, _ = rw.Write([]byte("\x00asm\x01\x00\x00\x00and then nothing that makes sense"))
	}))
	w.now(httpService("shop", "calm", "web", 80, 8080))
	calm := fmt.Sprintf("http://%s/", w.vip("shop", "calm"))
	s := w.storm("shop", "client", calm)
	for _, m := range mistakesL7(w.podIP("shop", "client")) {
		w.apply(m.text)
		w.said(m.name, " shop/bad", m.says)
		w.eventually(m.name+" to be answered for", func() error {
			a, err := w.fetch("shop", "client", "GET "+url)
			if want := cmp.Or(answersL7[m.name], http.StatusOK); err == nil && a.Status != want {
				err = fmt.Errorf("status %d, want %d", a.Status, want)
			}
			return err
		})
		w.remove(m.text)
		w.said("nothing any more", "Nothing is refused.")
	}
	// A script is known to be none when it runs: the policy's service fails closed, and the log names it.
	w.now(l7(policyV1, "ExtensionPolicy", "bad", "{"+webTarget+", lua: {source: 'function envoy_on_request('}}"))
	w.status("shop", "client", "GET "+url, http.StatusServiceUnavailable)
	w.eventually("the log to name the script", func() error {
		p, err := w.Pod(w.ctx, "shop", w.proxies("shop", "waypoint")[0])
		if err != nil {
			return err
		}
		log, err := w.ReadLog(p.Containers[0].Log)
		if err == nil && !strings.Contains(string(log), "ExtensionPolicy shop/bad: script:") {
			err = errNotYet
		}
		return err
	})
	w.unharmed(s)
}

// TestWaypointLastGood turns good configuration to nonsense: what was good stays in force, and that is told.
func TestWaypointLastGood(t *testing.T) {
	w := startWaypoints(t, options{nodes: 2})
	url := w.shop(1)
	good := []struct{ kind, text, from, to string }{
		{"VirtualService", l7(istioNet, "VirtualService", "web", "{hosts: [web], http: [{headers: {response: {set: {good: vs}}}, route: [{destination: {host: web, subset: v2}}]}]}"), "vs}", "[vs]}"},
		{"DestinationRule", churnRule(""), "version: v2", "version: [v2]"},
		{"AuthorizationPolicy", churnPolicy("read", "{to: [{operation: {methods: [GET]}}]}"), "methods", "method"},
		{"RequestAuthentication", l7(istioSec, "RequestAuthentication", "jwt", "{"+webTarget+", jwtRules: [{issuer: a, jwks: '{\"keys\": [{\"kty\": \"oct\", \"k\": \"AAAA\"}]}'}]}"), "issuer: a", "issuer: ''"},
		{"LocalRateLimitPolicy", l7(policyV1, "LocalRateLimitPolicy", "few", "{"+webTarget+", rules: [{name: a, matches: [{path: {type: Exact, value: /few}}], limit: {requests: 1, per: 1h}}]}"), "per: 1h", "per: soon"},
		{"ExtensionPolicy", l7(policyV1, "ExtensionPolicy", "lua", "{"+webTarget+", lua: {source: 'function envoy_on_response(h) h:headers():add(\"lua\", \"ran\") end'}}"), "lua: {", "luaa: {"},
	}
	inForce := func(when string) {
		t.Helper()
		a := w.status("shop", "client", "GET "+url, http.StatusOK)
		if a.Back.Get("Good") != "vs" || a.Back.Get("Lua") != "ran" || !strings.Contains(a.Body, "Text=v2") {
			t.Errorf("%s: %v %q", when, a.Back, a.Body)
		}
		w.status("shop", "client", "POST "+url, http.StatusForbidden)
		w.status("shop", "client", "GET "+url, http.StatusUnauthorized, "authorization: Bearer eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJhIn0.AAAA")
		w.status("shop", "client", "GET "+url+"few", http.StatusTooManyRequests)
	}
	for _, g := range good {
		w.apply(g.text)
	}
	w.synced()
	_, err := w.fetch("shop", "client", "GET "+url+"few")
	w.must(err)
	inForce("at first")
	for _, g := range good {
		bad := strings.Replace(g.text, g.from, g.to, 1)
		if bad == g.text {
			t.Fatalf("%s is not changed", g.kind)
		}
		w.apply(bad)
		w.said("a bad "+g.kind, g.kind+" shop/", "the earlier version stays in force")
		inForce("with a bad " + g.kind)
	}
	// All of them are bad now, and whoever starts now has what the control plane still knows.
	w.rolled(func() error { return w.Restart(w.soon(), "Deployment", "shop", "waypoint") })
	w.status("shop", "client", "POST "+url, http.StatusForbidden)
	for _, g := range good {
		w.apply(g.text)
	}
	w.eventually("all to be mended", func() error {
		if list := w.ambitctl("config", "refused"); strings.Contains(list, "earlier version") {
			return errors.New(list)
		}
		return nil
	})
}
