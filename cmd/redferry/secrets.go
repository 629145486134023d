package main

import (
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"syscall"
)

// adminPassword is the flag that is a password, and not a URL that may hold one.
const adminPassword = "--admin-password"

// secretFlags are the flags whose values may hold a password, with their variables.
func secretFlags() map[string]string {
	return map[string]string{"--source": "REDFERRY_SOURCE", "--target": "REDFERRY_TARGET", adminPassword: "REDFERRY_ADMIN_PASSWORD"}
}

// hideSecrets starts the program again, as the same process, with every password, and every URL that may hold one, moved from the arguments, which
// everybody on the machine can read, to the environment, which only this user can. It returns when there was nothing to hide, or when it
// could not.
func hideSecrets() error {
	args, moved := withoutSecrets(os.Args)
	if len(moved) == 0 {
		return nil
	}
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find this program: %w", err)
	}
	env := slices.DeleteFunc(os.Environ(), func(v string) bool {
		name, _, _ := strings.Cut(v, "=")
		_, ok := moved[name]
		return ok
	})
	for name, value := range moved {
		env = append(env, name+"="+value)
	}
	return fmt.Errorf("start it again: %w", syscall.Exec(self, args, env)) // Exec returns only when it has failed
}

// withoutSecrets takes the flags of URLs that may hold a password out of args, and gives them as variables. When one occurrence of a flag holds
// one, all of them go, and the last one counts, as it does on the command line.
func withoutSecrets(args []string) (rest []string, moved map[string]string) {
	moved = map[string]string{}
	for _, f := range findSecrets(args) {
		if strings.Contains(f.value, "@") || f.env == secretFlags()[adminPassword] {
			moved[f.env] = ""
		}
	}
	if len(moved) == 0 {
		return args, moved
	}
	next := 0
	for _, f := range findSecrets(args) {
		if _, ok := moved[f.env]; !ok {
			continue
		}
		moved[f.env] = f.value
		rest = append(rest, args[next:f.from]...)
		next = f.to
	}
	return append(rest, args[next:]...), moved
}

// given is one occurrence of a flag in the arguments from and before to.
type given struct {
	env, value string
	from, to   int
}

// findSecrets finds the flags of secretFlags, as --flag URL and --flag=URL. kong knows no abbreviations.
func findSecrets(args []string) (found []given) {
	flags := secretFlags()
	for i := 0; i < len(args) && args[i] != "--"; i++ {
		name, value, joined := strings.Cut(args[i], "=")
		env, ok := flags[name]
		switch {
		case !ok:
		case joined:
			found = append(found, given{env, value, i, i + 1})
		case i+1 < len(args):
			found = append(found, given{env, args[i+1], i, i + 2})
			i++
		}
	}
	return found
}

// userinfo is what may be a user and a password in a URL: all up to the last @ of the line, since a
// password may hold anything by mistake. Rather too much is hidden than too little.
var userinfo = regexp.MustCompile(`([A-Za-z][A-Za-z0-9+.-]*://).*@`)

// redact takes users and passwords out of a text for people.
func redact(text string) string { return userinfo.ReplaceAllString(text, "${1}***@") }
