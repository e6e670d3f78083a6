package envoy

import (
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
// at both ends keep its first and last characters from becoming part of a bracket.
func guardedScript(source string, failOpen bool) string {
	level := "="
	for strings.Contains(source, "]"+level+"]") {
		level += "="
	}
	return fmt.Sprintf(`local open = %t
local source = [%s[
%s
]%s]
local chunk, why = loadstring(source, "=script")
local ready = false
if chunk then ready, why = pcall(chunk) end
local function failed(handle, message, respond)
  handle:logErr("script failed: " .. tostring(message))
  if open then return end
  if respond then
    handle:respond({[":status"] = "503"}, "an extension failed\n")
  else
    handle:headers():replace(":status", "503")
  end
end
local request, response = envoy_on_request, envoy_on_response
if not ready or request then
  function envoy_on_request(handle)
    if not ready then return failed(handle, why, true) end
    local ok, message = pcall(request, handle)
    if not ok then failed(handle, message, true) end
  end
end
if ready and response then
  function envoy_on_response(handle)
    local ok, message = pcall(response, handle)
    if not ok then failed(handle, message, false) end
  end
end
`, failOpen, level, source, level)
}

// failing answers for an extension that is not there.
func failing(object string) *corev3.TypedExtensionConfig {
	return luaFilter(object, `function envoy_on_request(handle)
  handle:respond({[":status"] = "503"}, "an extension is not available\n")
end
`)
}
