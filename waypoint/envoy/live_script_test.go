package envoy_test

import (
	"strings"
	"testing"

	"github.com/ambit-mesh/ambit/api/waypoint"
)

// TestScriptsConfined: a script edits requests and may ask services of the proxy; it reads no files, runs no programs,
// loads no code, and does not talk to what belongs to the proxy itself.
func TestScriptsConfined(t *testing.T) {
	s := openShop(t, "127.0.63.1")
	client := s.Peer(idClient).Client("10.96.0.1:80")
	run := func(script string) (int, string) {
		t.Helper()
		s.apply(&waypoint.Policies{Extensions: []*waypoint.Extension{{
			Namespace: "default", Name: "script", Kind: &waypoint.Extension_Lua{Lua: &waypoint.Lua{Source: script}},
		}}})
		status, body, _ := ask(t, client, "GET", "/")
		return status, body
	}
	const asks = `function envoy_on_request(h)
  local headers = h:httpCall("CLUSTER", {[":method"] = "GET", [":path"] = "/server_info", [":authority"] = "x"}, "", 2000)
  h:respond({[":status"] = "299"}, headers[":status"])
end`
	for name, script := range map[string]string{
		"reads a file":        `function envoy_on_request(h) h:respond({[":status"] = "299"}, io.open("/etc/passwd"):read("*l")) end`,
		"runs a program":      `function envoy_on_request(h) os.execute("true") h:respond({[":status"] = "299"}, "done") end`,
		"calls C":             `function envoy_on_request(h) require("ffi") h:respond({[":status"] = "299"}, "done") end`,
		"calls C, preloaded":  `function envoy_on_request(h) local x = package.loaded.ffi h:respond({[":status"] = "299"}, "done") end`,
		"loads bytecode":      `function envoy_on_request(h) loadstring(string.dump(function() end))() h:respond({[":status"] = "299"}, "done") end`,
		"leaves by the stack": `function envoy_on_request(h) getfenv(0).io.open("/etc/passwd") h:respond({[":status"] = "299"}, "done") end`,
		"looks around":        `function envoy_on_request(h) debug.getregistry() h:respond({[":status"] = "299"}, "done") end`,
		"by the global table": `function envoy_on_request(h) _G.io.open("/etc/passwd") h:respond({[":status"] = "299"}, "done") end`,
		"when it is loaded":   `local f = io.open("/etc/passwd") function envoy_on_request(h) h:respond({[":status"] = "299"}, "done") end`,
		"asks Envoy":          strings.Replace(asks, "CLUSTER", "admin", 1),
		"asks the agent":      strings.Replace(asks, "CLUSTER", "agent-sds", 1),
		"undoes the wrapping": `function envoy_on_request(h) getmetatable(h).httpCall = nil h:respond({[":status"] = "299"}, "done") end`,
	} {
		if status, body := run(script); status != 503 {
			t.Errorf("a script that %s: %d %q", name, status, body)
		}
	}
	if status, body := run(strings.Replace(asks, "CLUSTER", "inbound-vip|80|http|echo.default.svc.cluster.local", 1)); status != 299 || body != "200" {
		t.Errorf("a script that asks a service: %d %q", status, body)
	}
	ordinary := `local count = 0
local function bump() count = count + 1 return count end
function envoy_on_request(h)
  local ok, err = pcall(error, "x")
  local parts = {}
  for k in string.gmatch("a,b", "%a") do table.insert(parts, k) end
  h:headers():replace("x-seen", table.concat(parts, "-") .. math.max(1, 2) .. tostring(ok) .. type(os.time()) .. bump())
  for key, value in pairs(h:headers()) do parts[#parts + 1] = key end
  h:logDebug("x")
end
function envoy_on_response(h) h:headers():add("x-done", string.format("%d", select("#", unpack({1, 2})))) end`
	if status, body := run(ordinary); status != 200 || !strings.Contains(body, "a-b2falsenumber1") {
		t.Errorf("an ordinary script: %d %q", status, body)
	}
}
