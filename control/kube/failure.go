package kube

import "time"

// failure is when something that could not be done is tried again, and for how long it waits until then. The zero value has not
// failed.
type failure struct {
	at    time.Time
	pause time.Duration
}

// again is the next failure after f: it waits twice as long, but for first at the least and most at the most.
func (f failure) again(first, most time.Duration) failure {
	pause := min(max(2*f.pause, first), most)
	return failure{at: time.Now().Add(pause), pause: pause}
}
