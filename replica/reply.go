package replica

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strings"
)

// ReplyError is a source's refusal that time may heal: it is loading, busy, has lost its own primary, or could not fork (protocol 1.2).
type ReplyError struct {
	Command string // what was asked
	Reply   string // the reply as it came, without the leading "-"
}

func (e *ReplyError) Error() string {
	return fmt.Sprintf("the source refuses %s for now: %s", e.Command, e.Reply)
}

// code is the first word of an error reply: LOADING, NOPERM, ERR…; "" for any other reply.
func code(reply string) string {
	if !strings.HasPrefix(reply, "-") {
		return ""
	}
	word, _, _ := strings.Cut(reply[1:], " ")
	return word
}

func unknownCommand(reply string) bool {
	return strings.HasPrefix(strings.ToLower(reply), "-err unknown command")
}

// refused sorts an error reply: a [Stop] where only the operator can help, with the way out, and otherwise a [ReplyError].
func (l *Link) refused(command, reply string) error {
	text := strings.TrimPrefix(reply, "-")
	stop := func(reason, hint string) error { return &Stop{Kind: Config, Reason: reason + ": " + text, Hint: hint} }
	user := l.conf.Endpoint.Username
	if user == "" {
		user = "default"
	}
	switch code(reply) {
	case "NOAUTH":
		return stop("the source wants AUTH, and the URL has no password", "put user and password into the source's URL: user:password@ before its host")
	case "WRONGPASS":
		return stop(fmt.Sprintf("AUTH as user %q failed", user), "check user and password in the source's URL")
	case "NOPERM":
		return stop(fmt.Sprintf("user %q may not use %s on the source", user, command), fmt.Sprintf("on the source: ACL SETUSER %s +psync +replconf +ping", user))
	case "DENIED":
		return stop("the source is in protected mode", "set a password on the source, or bind it to an address of its own, or CONFIG SET protected-mode no")
	case "LOADING", "MASTERDOWN", "BUSY", "MISCONF", "NOMASTERLINK", "TRYAGAIN":
		return &ReplyError{Command: command, Reply: text}
	}
	switch {
	case command == "AUTH":
		return stop(fmt.Sprintf("AUTH as user %q failed", user), "the source's URL has a user or a password that this source does not know")
	case command == "PSYNC" && unknownCommand(reply):
		return stop("this source does not allow PSYNC: managed services hide it, and so does rename-command",
			"undo rename-command on a source of yours; a service that offers PSYNC under another name wants --psync-command NAME")
	case unknownCommand(reply):
		return stop("this source does not allow "+command, "redferry needs PING, REPLCONF and PSYNC")
	}
	return &ReplyError{Command: command, Reply: text}
}

// lineError names what is wrong with a line that has no end; b is what came of it.
func (l *Link) lineError(b []byte, err error) error {
	switch {
	case errors.Is(err, bufio.ErrBufferFull):
		return &ProtocolError{Offset: -1, Near: near(nil, b), Reason: "a line without an end"}
	case errors.Is(err, io.EOF) && len(b) > 0:
		return io.ErrUnexpectedEOF
	}
	return err
}
