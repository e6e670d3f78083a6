package hbone

import (
	"errors"
	"fmt"
)

// ErrCode is an HTTP/2 error code, RFC 9113 §7.
type ErrCode uint32

// The codes of RFC 9113 §7.
const (
	NoError            ErrCode = 0x0
	ProtocolError      ErrCode = 0x1
	InternalError      ErrCode = 0x2
	FlowControlError   ErrCode = 0x3
	SettingsTimeout    ErrCode = 0x4
	StreamClosed       ErrCode = 0x5
	FrameSizeError     ErrCode = 0x6
	RefusedStream      ErrCode = 0x7
	Cancel             ErrCode = 0x8
	CompressionError   ErrCode = 0x9
	ConnectError       ErrCode = 0xa
	EnhanceYourCalm    ErrCode = 0xb
	InadequateSecurity ErrCode = 0xc
	HTTP11Required     ErrCode = 0xd
)

var codeNames = [...]string{
	"NO_ERROR", "PROTOCOL_ERROR", "INTERNAL_ERROR", "FLOW_CONTROL_ERROR", "SETTINGS_TIMEOUT", "STREAM_CLOSED",
	"FRAME_SIZE_ERROR", "REFUSED_STREAM", "CANCEL", "COMPRESSION_ERROR", "CONNECT_ERROR", "ENHANCE_YOUR_CALM",
	"INADEQUATE_SECURITY", "HTTP_1_1_REQUIRED",
}

// String returns the RFC's name of the code.
func (e ErrCode) String() string {
	if int(e) < len(codeNames) {
		return codeNames[e]
	}
	return fmt.Sprintf("code 0x%x", uint32(e))
}

// Sentinels a caller branches on.
var (
	// ErrDraining says that the connection takes no new streams, that it ended, or that the peer never looked at this
	// one. Nothing of the application was sent; opening it on another connection is safe.
	ErrDraining = errors.New("tunnel connection takes no more streams")
	// ErrFull says that all streams the peer or we allow are in use; another connection may have room.
	ErrFull = errors.New("all streams of the tunnel are in use")
	// ErrClosed says that this side closed the connection or stream before.
	ErrClosed = errors.New("tunnel is closed")
	// ErrPingTimeout says that the peer stopped answering.
	ErrPingTimeout = errors.New("peer did not answer a keepalive ping in time")
)

// StatusError is the peer's answer to CONNECT when it was not 2xx.
type StatusError struct {
	Code    int
	Headers []Header
}

func (e *StatusError) Error() string {
	switch e.Code {
	case 400:
		return "peer refused the tunnel: 400, it is not the destination we asked for or did not understand the request"
	case 401:
		return "peer refused the tunnel: 401, its policy denies this source"
	case 503:
		return "peer refused the tunnel: 503, it could not reach the application"
	}
	return fmt.Sprintf("peer refused the tunnel: status %d", e.Code)
}

// ResetError ends one stream. Remote says whether the peer sent the RST_STREAM or we did.
type ResetError struct {
	Code   ErrCode
	Remote bool
	Reason string
}

func (e *ResetError) Error() string {
	who := "stream reset by us"
	if e.Remote {
		who = "stream reset by peer"
	}
	if e.Reason == "" {
		return fmt.Sprintf("%s: %s", who, e.Code)
	}
	return fmt.Sprintf("%s: %s: %s", who, e.Code, e.Reason)
}

// Is makes a REFUSED_STREAM from the peer match ErrDraining: RFC 9113 §8.7 guarantees that it did not act on it.
func (e *ResetError) Is(target error) bool {
	return target == ErrDraining && e.Remote && e.Code == RefusedStream
}

// ProtocolViolation is a connection error, RFC 9113 §5.4.1, that we found in what the peer sent.
type ProtocolViolation struct {
	Code   ErrCode
	Reason string
}

func (e *ProtocolViolation) Error() string {
	return fmt.Sprintf("peer broke HTTP/2: %s: %s", e.Code, e.Reason)
}

// GoAwayError is the peer's reason for ending the connection.
type GoAwayError struct {
	Code  ErrCode
	Debug string
}

func (e *GoAwayError) Error() string {
	if e.Debug == "" {
		return fmt.Sprintf("peer closed the tunnel: %s", e.Code)
	}
	return fmt.Sprintf("peer closed the tunnel: %s: %q", e.Code, e.Debug)
}

func violation(code ErrCode, format string, args ...any) error {
	return &ProtocolViolation{Code: code, Reason: fmt.Sprintf(format, args...)}
}
