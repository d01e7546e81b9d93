package flash

import "strings"

// The codes of NetStatus events, as Adobe's reference names them.
const (
	NetConnectionConnectSuccess       = "NetConnection.Connect.Success"
	NetConnectionConnectFailed        = "NetConnection.Connect.Failed"
	NetConnectionConnectRejected      = "NetConnection.Connect.Rejected"
	NetConnectionConnectClosed        = "NetConnection.Connect.Closed"
	NetConnectionConnectInvalidApp    = "NetConnection.Connect.InvalidApp"
	NetConnectionConnectAppShutdown   = "NetConnection.Connect.AppShutdown"
	NetConnectionConnectIdleTimeOut   = "NetConnection.Connect.IdleTimeOut"
	NetConnectionConnectNetworkChange = "NetConnection.Connect.NetworkChange"
	NetConnectionCallFailed           = "NetConnection.Call.Failed"
	NetConnectionConnectivityCheck    = "NetConnection.ConnectivityCheck.Results"

	NetStreamConnectSuccess      = "NetStream.Connect.Success"
	NetStreamConnectFailed       = "NetStream.Connect.Failed"
	NetStreamConnectRejected     = "NetStream.Connect.Rejected"
	NetStreamConnectClosed       = "NetStream.Connect.Closed"
	NetStreamPublishStart        = "NetStream.Publish.Start"
	NetStreamPublishBadName      = "NetStream.Publish.BadName"
	NetStreamUnpublishSuccess    = "NetStream.Unpublish.Success"
	NetStreamPlayStart           = "NetStream.Play.Start"
	NetStreamPlayReset           = "NetStream.Play.Reset"
	NetStreamPlayStop            = "NetStream.Play.Stop"
	NetStreamPlayFailed          = "NetStream.Play.Failed"
	NetStreamPlayStreamNotFound  = "NetStream.Play.StreamNotFound"
	NetStreamPlayPublishNotify   = "NetStream.Play.PublishNotify"
	NetStreamPlayUnpublishNotify = "NetStream.Play.UnpublishNotify"
	NetStreamBufferFull          = "NetStream.Buffer.Full"
	NetStreamBufferEmpty         = "NetStream.Buffer.Empty"
	NetStreamBufferFlush         = "NetStream.Buffer.Flush"
)

// Status is the information of a NetStatus event: what happened, and for people why.
type Status struct {
	Code        string
	Level       string // "status", "warning" or "error"; empty is what the code usually has
	Description string
}

// Object is the information object that carries s, with further properties.
func (s Status) Object(more ...Property) *Object {
	if s.Level == "" {
		s.Level = levelOf(s.Code)
	}
	return &Object{Properties: append([]Property{{"level", s.Level}, {"code", s.Code}, {"description", s.Description}}, more...)}
}

// ParseStatus reads an information object. ok is false if it has no code. A Level that is missing is what the code usually has.
func ParseStatus(v any) (s Status, ok bool) {
	get := func(name string) any { return nil }
	switch v := v.(type) {
	case *Object:
		get = func(name string) any { p, _ := v.Get(name); return p }
	case *Array:
		get = func(name string) any { p, _ := v.Get(name); return p }
	}
	s.Code, ok = get("code").(string)
	s.Level, _ = get("level").(string)
	s.Description, _ = get("description").(string)
	if s.Level == "" {
		s.Level = levelOf(s.Code)
	}
	return s, ok && s.Code != ""
}

// levelOf is the level that a code usually has.
func levelOf(code string) string {
	for _, suffix := range []string{".Failed", ".Rejected", ".BadName", ".StreamNotFound", ".InvalidApp", ".AppShutdown"} {
		if strings.HasSuffix(code, suffix) {
			return "error"
		}
	}
	return "status"
}
