package flash

import "slices"

// ObjectEncoding is the version of AMF of a NetConnection's commands.
type ObjectEncoding uint8

// The encodings, by the numbers that ActionScript has for them.
const (
	AMF0 ObjectEncoding = 0
	AMF3 ObjectEncoding = 3
)

// maxArguments bounds the arguments of a command or data message. What is known has fewer than ten.
const maxArguments = 256

// Command is a command message (§5.3.3): a call of NetConnection or NetStream, an answer to one or an event.
//
//	name:string transaction:number object:value arguments:values
type Command struct {
	Name        string
	Transaction float64 // 0 wants no answer
	Object      any     // the command object; most have none, which is nil
	Arguments   []any
}

// Argument returns the argument at i, or nil.
func (c Command) Argument(i int) any {
	if i < len(c.Arguments) {
		return c.Arguments[i]
	}
	return nil
}

// Text returns the argument at i if it is a string, else "".
func (c Command) Text(i int) string {
	s, _ := c.Argument(i).(string)
	return s
}

// AppendCommand appends a whole message, with timestamp 0: of type 20 for AMF0, of type 17 for AMF3. Error: an AMFError if
// a value has no counterpart, and then b is returned as it was.
func AppendCommand(b []byte, encoding ObjectEncoding, c Command) ([]byte, error) {
	kind := MessageCommandAMF0
	if encoding == AMF3 {
		kind = MessageCommandAMF3
	}
	return appendValues(b, kind, 0, encoding, slices.Concat([]any{c.Name, c.Transaction, c.Object}, c.Arguments))
}

// ParseCommand parses a message of type 17 or 20. Errors: ErrMessage, an AMFError.
func ParseCommand(m Message) (Command, error) {
	if m.Type != MessageCommandAMF0 && m.Type != MessageCommandAMF3 {
		return Command{}, ErrMessage
	}
	values, err := parseValues(m, m.Type == MessageCommandAMF3)
	if err != nil {
		return Command{}, err
	}
	if len(values) < 2 {
		return Command{}, ErrMessage
	}
	c := Command{}
	var named, numbered bool
	c.Name, named = values[0].(string)
	c.Transaction, numbered = values[1].(float64)
	if !named || !numbered {
		return Command{}, ErrMessage
	}
	if len(values) > 2 {
		c.Object, c.Arguments = values[2], values[3:]
	}
	return c, nil
}

// Data is a data message: a call of a handler of the receiving NetStream's client.
type Data struct {
	Handler   string
	Arguments []any
}

// AppendData appends a whole message: of type 18 for AMF0, of type 15 for AMF3. Error: as AppendCommand.
func AppendData(b []byte, encoding ObjectEncoding, timestamp uint32, d Data) ([]byte, error) {
	kind := MessageDataAMF0
	if encoding == AMF3 {
		kind = MessageDataAMF3
	}
	return appendValues(b, kind, timestamp, encoding, slices.Concat([]any{d.Handler}, d.Arguments))
}

// ParseData parses a message of type 15 or 18. Some players write "@setDataFrame" before a handler that a server should
// keep; it is the handler then. Errors: ErrMessage, an AMFError.
func ParseData(m Message) (Data, error) {
	if m.Type != MessageDataAMF0 && m.Type != MessageDataAMF3 {
		return Data{}, ErrMessage
	}
	values, err := parseValues(m, m.Type == MessageDataAMF3)
	if err != nil {
		return Data{}, err
	}
	if len(values) == 0 {
		return Data{}, ErrMessage
	}
	handler, ok := values[0].(string)
	if !ok {
		return Data{}, ErrMessage
	}
	return Data{Handler: handler, Arguments: values[1:]}, nil
}

func appendValues(b []byte, kind MessageType, timestamp uint32, encoding ObjectEncoding, values []any) ([]byte, error) {
	out := AppendMessage(b, Message{Type: kind, Timestamp: timestamp})
	if encoding == AMF3 {
		out = append(out, 0) // the only format selector that is defined (§5.3.3)
	}
	if len(values) > maxArguments {
		return b, ErrAMFValues
	}
	for _, v := range values {
		var err error
		if _, _, kind := scalarOf(v); encoding == AMF3 && kind == scalarNone && !isPlain(v) {
			out, err = AppendAMF3(append(out, amf0AVMPlus), v)
		} else {
			out, err = AppendAMF0(out, v)
		}
		if err != nil {
			return b, err
		}
	}
	return out, nil
}

// isPlain are the values that an AMF3 message still has in AMF0.
func isPlain(v any) bool {
	switch v.(type) {
	case nil, bool, Undefined:
		return true
	}
	return false
}

func parseValues(m Message, selector bool) (values []any, err error) {
	b := m.Payload
	if selector {
		if len(b) == 0 || b[0] != 0 {
			return nil, ErrMessage
		}
		b = b[1:]
	}
	for len(b) > 0 {
		if len(values) == maxArguments {
			return nil, ErrAMFValues
		}
		var v any
		if v, b, err = ParseAMF0(b); err != nil {
			return nil, err
		}
		values = append(values, v)
	}
	return values, nil
}
