package admin

import (
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"time"

	"redferry/replica"
)

// Report is a run: what it is, and how it does. STATUS gives it as JSON, INFO as lines.
type Report struct {
	Server Identity `json:"server"`
	replica.View
}

// Identity says which run it is. The ends are named without passwords.
type Identity struct {
	Name    string    `json:"name"`
	Source  string    `json:"source"`
	Target  string    `json:"target"`
	Dir     string    `json:"dir"`
	Version string    `json:"version"`
	PID     int       `json:"pid"`
	Started time.Time `json:"started"`
}

// info writes a report as INFO has it: a section for each part of it, with fields that are named by their JSON; section "" or "all" means all of them. What stands in no part of its own is
// in the section migration. So INFO has whatever STATUS has.
func info(r *Report, section string) string {
	type part struct {
		name   string
		fields []string
	}
	parts := []part{{name: "server"}, {name: "migration"}}
	add := func(i int, prefix string, v reflect.Value) {
		parts[i].fields = append(parts[i].fields, prefix+":"+infoValue(v))
	}
	var walk func(v reflect.Value)
	walk = func(v reflect.Value) {
		for i := range v.NumField() {
			f, value := v.Type().Field(i), v.Field(i)
			name := f.Tag.Get("json")
			switch {
			case f.Anonymous:
				walk(value)
			case value.Kind() == reflect.Struct && f.Type != reflect.TypeFor[time.Time]():
				at := len(parts)
				if name == "server" {
					at = 0
				} else {
					parts = append(parts, part{name: name})
				}
				for j := range value.NumField() {
					add(at, name+"_"+value.Type().Field(j).Tag.Get("json"), value.Field(j))
				}
			default:
				add(1, name, value)
			}
		}
	}
	walk(reflect.ValueOf(*r))
	var text strings.Builder
	for _, p := range parts {
		if section != "" && !strings.EqualFold(section, "all") && !strings.EqualFold(section, "everything") && !strings.EqualFold(section, p.name) {
			continue
		}
		if text.Len() > 0 {
			text.WriteString("\r\n")
		}
		fmt.Fprintf(&text, "# %s%s\r\n", strings.ToUpper(p.name[:1]), p.name[1:])
		for _, f := range p.fields {
			text.WriteString(f + "\r\n")
		}
	}
	return text.String()
}

// infoValue is a value in one line. Of a time INFO has the Unix seconds, and of a truth 1 or 0, as a server does.
func infoValue(v reflect.Value) string {
	switch value := v.Interface().(type) {
	case time.Time:
		return strconv.FormatInt(value.Unix(), 10)
	case replica.Span:
		text, _ := value.MarshalJSON() // of a number
		return string(text)
	case bool:
		if value {
			return "1"
		}
		return "0"
	case float64:
		return strconv.FormatFloat(value, 'f', 2, 64)
	}
	return strings.Join(strings.Fields(fmt.Sprint(v.Interface())), " ")
}
