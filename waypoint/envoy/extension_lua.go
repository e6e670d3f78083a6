package envoy

import (
	"errors"
	"fmt"
	"strings"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
)

// defaultProcessorTimeout is Envoy's own for one message.
const defaultProcessorTimeout = 200 * time.Millisecond

// guardedScript wraps a user's script. Envoy refuses a whole route configuration for a script it cannot compile, and lets
// requests pass when one fails while it runs; with the wrapping, a script is compiled where it runs, and its failure is
// an answer 503, or nothing if it may be passed over. The script is a long string here, which has no escapes: it ends
// where the first bracket of its level does, and that does not occur in it (Lua 5.1 reference manual §2.1). The newlines
// at both ends keep its first and last characters from becoming part of a bracket. What it fails with is logged by the name
// of the object, which as every name in Kubernetes has no character that a Lua string would need to escape.
//
// Envoy gives scripts all of LuaJIT: files, programs, C. Whoever may write an ExtensionPolicy must not have the proxy's
// private key for it, so a script sees the harmless part of the language, and asks services but not Envoy or its agent.
// Bytecode, which could be made to leave that (LuaJIT, security notes), is refused before by checkScript.
func guardedScript(object, source string, failOpen bool) string {
	level := "="
	for strings.Contains(source, "]"+level+"]") {
		level += "="
	}
	return fmt.Sprintf(`local open = %t
local source = [%s[
%s
]%s]
local metatable = getmetatable
local env = {}
for _, name in ipairs({"assert", "error", "ipairs", "next", "pairs", "pcall", "rawequal", "rawget", "rawset", "select",
  "setmetatable", "tonumber", "tostring", "type", "unpack", "xpcall"}) do
  env[name] = _G[name]
end
string.dump = nil
for _, name in ipairs({"bit", "coroutine", "math", "string", "table"}) do
  env[name] = {}
  for key, value in pairs(_G[name] or {}) do env[name][key] = value end
end
env.os = {clock = os.clock, date = os.date, difftime = os.difftime, time = os.time}
env._G = env
local chunk, why = loadstring(source, "=script")
local ready = false
if chunk then ready, why = pcall(setfenv(chunk, env)) end
local confined = false
local function confine(handle)
  if confined then return end
  confined = true
  local methods = metatable(handle)
  local call = methods.httpCall
  methods.httpCall = function(self, cluster, ...)
    if type(cluster) ~= "string" or not (cluster:find("^inbound%%-vip|") or cluster:find("^outbound|")) then
      error("no cluster of a service: " .. tostring(cluster))
    end
    return call(self, cluster, ...)
  end
end
local function failed(handle, message, respond)
  handle:logErr("%s: " .. tostring(message))
  if open then return end
  if respond then
    handle:respond({[":status"] = "503"}, "an extension failed\n")
  else
    handle:headers():replace(":status", "503")
  end
end
local request, response = env.envoy_on_request, env.envoy_on_response
if not ready or request then
  function envoy_on_request(handle)
    if not ready then return failed(handle, why, true) end
    confine(handle)
    local ok, message = pcall(request, handle)
    if not ok then failed(handle, message, true) end
  end
end
if ready and response then
  function envoy_on_response(handle)
    confine(handle)
    local ok, message = pcall(response, handle)
    if not ok then failed(handle, message, false) end
  end
end
`, failOpen, level, source, level, object)
}

// checkScript says why a script cannot be run.
func checkScript(source string) error {
	switch {
	case source == "":
		return errors.New("the script is empty")
	case strings.Contains(source, "\x1b"): // which bytecode begins with
		return errors.New("the script has an escape character in it: write \\27")
	}
	return nil
}

// failing answers for an extension that is not there.
func failing(object string) *corev3.TypedExtensionConfig {
	return luaFilter(object, `function envoy_on_request(handle)
  handle:respond({[":status"] = "503"}, "an extension is not available\n")
end
`)
}
