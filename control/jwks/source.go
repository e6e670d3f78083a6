package jwks

import "time"

// Source says where a key set is.
type Source struct {
	// URI of the set; empty means what the discovery document of Issuer names.
	URI    string
	Issuer string
	// Timeout of one attempt; 0 means the fetcher's.
	Timeout time.Duration
}

// String is the address, or the issuer that knows it.
func (s Source) String() string {
	if s.URI != "" {
		return s.URI
	}
	return "issuer " + s.Issuer
}

// Set is what is known of a Source.
type Set struct {
	// Keys is the last good key set, JSON; empty while there is none.
	Keys string
	// Problem says why the last attempt failed; empty when it did not, or when there was none yet.
	Problem string
}
