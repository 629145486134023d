package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"reflect"
	"slices"
	"strings"

	"github.com/alecthomas/kong"
	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
)

// configFlag is the path of the configuration file.
type configFlag string

// BeforeResolve reads the file, between the reading of the arguments and of the flags that they leave open.
func (configFlag) BeforeResolve(ctx *kong.Context, trace *kong.Path, s *streams) error {
	path, _ := ctx.FlagValue(trace.Flag).(configFlag)
	if path == "" {
		return nil
	}
	f, err := os.Open(string(path))
	if err != nil {
		return fmt.Errorf("read the configuration: %w", err)
	}
	defer f.Close()
	c, err := loadConfig(f)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if info, err := f.Stat(); err == nil && info.Mode().Perm()&0o004 != 0 && c.secret() {
		s.warn("%s holds a password, and everybody on this machine may read it; try: chmod 600 %s", path, path)
	}
	c.path = string(path)
	ctx.AddResolver(c)
	return nil
}

// config is a configuration file that was read. It implements [kong.Resolver].
type config struct {
	path     string // for messages
	settings map[string]setting
}

// setting is what the file says of one flag. Its text is what one would write behind --flag=.
type setting struct {
	text    string
	mapping bool
	line    int
}

// loadConfig reads a configuration in YAML: a mapping of long flag names to values. Errors name the line, and never quote it.
func loadConfig(r io.Reader) (*config, error) {
	text, err := io.ReadAll(r)
	if err != nil {
		return nil, fmt.Errorf("read the configuration: %w", err)
	}
	file, err := parser.ParseBytes(text, 0)
	if err != nil {
		return nil, yamlError(err)
	}
	c := &config{path: "the configuration file", settings: map[string]setting{}}
	for _, doc := range file.Docs {
		pairs, err := mapping(doc.Body)
		if err != nil {
			return nil, err
		}
		for _, p := range pairs {
			if err := c.add(p); err != nil {
				return nil, err
			}
		}
	}
	return c, nil
}

// yamlError is an error of the parser without the lines that it quotes, which may hold a password.
func yamlError(err error) error {
	var y yaml.Error
	if !errors.As(err, &y) || y.GetToken() == nil {
		return errors.New("not YAML")
	}
	return fmt.Errorf("line %d: not YAML: %s", y.GetToken().Position.Line, y.GetMessage())
}

// mapping are the pairs of a mapping; none for an empty document.
func mapping(node ast.Node) ([]*ast.MappingValueNode, error) {
	switch n := node.(type) {
	case nil, *ast.NullNode, *ast.CommentGroupNode:
		return nil, nil
	case *ast.MappingNode:
		return n.Values, nil
	case *ast.MappingValueNode:
		return []*ast.MappingValueNode{n}, nil
	}
	return nil, fmt.Errorf("line %d: expected a flag's name, a colon and its value", lineOf(node))
}

func (c *config) add(p *ast.MappingValueNode) error {
	key, line := p.Key.GetToken().Value, lineOf(p.Key)
	if before, ok := c.settings[key]; ok {
		return fmt.Errorf("line %d: %s is in line %d already", line, key, before.line)
	}
	if text, ok := scalar(p.Value); ok {
		c.settings[key] = setting{text: text, line: line}
		return nil
	}
	pairs, err := mapping(p.Value)
	if err != nil || len(pairs) == 0 {
		return fmt.Errorf("line %d: %s needs one value, or is left out", line, key)
	}
	var parts []string
	for _, p := range pairs {
		text, ok := scalar(p.Value)
		if !ok {
			return fmt.Errorf("line %d: %s needs one value", lineOf(p.Key), p.Key.GetToken().Value)
		}
		parts = append(parts, p.Key.GetToken().Value+"="+text)
	}
	c.settings[key] = setting{text: strings.Join(parts, ";"), mapping: true, line: line}
	return nil
}

// scalar is a single value as it is written: a version 1.10 is not to become the number 1.1.
func scalar(node ast.Node) (text string, ok bool) {
	switch n := node.(type) {
	case *ast.StringNode:
		return n.Value, true
	case *ast.LiteralNode:
		return strings.TrimSpace(n.Value.Value), true
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode:
		return n.GetToken().Value, true
	}
	return "", false
}

func lineOf(node ast.Node) int {
	if node == nil || node.GetToken() == nil || node.GetToken().Position == nil {
		return 0
	}
	return node.GetToken().Position.Line
}

// Resolve gives the file's value of a flag. kong asks for those that are not among the arguments; a variable wins, too.
func (c *config) Resolve(_ *kong.Context, _ *kong.Path, flag *kong.Flag) (any, error) {
	set, ok := c.settings[flag.Name]
	if !ok {
		return nil, nil
	}
	for _, env := range flag.Envs {
		if _, ok := os.LookupEnv(env); ok {
			return nil, nil
		}
	}
	if set.mapping && !flag.IsMap() {
		return nil, fmt.Errorf("line %d of %s: expected one value, not a mapping", set.line, c.path)
	}
	// kong will decode it again, but could not say then where it comes from.
	scan := kong.Scan().PushTyped(set.text, kong.FlagValueToken)
	trial := reflect.New(flag.Target.Type()).Elem()
	if err := flag.Mapper.Decode(&kong.DecodeContext{Value: flag.Value, Scan: scan}, trial); err != nil {
		return nil, fmt.Errorf("line %d of %s: %w", set.line, c.path, err)
	}
	if flag.Enum != "" && !slices.Contains(flag.EnumSlice(), set.text) {
		return nil, fmt.Errorf("line %d of %s: expected one of %s, but got %q", set.line, c.path, flag.Enum, set.text)
	}
	return set.text, nil
}

// Validate refuses keys that no command has as a flag. One file may serve all commands.
func (c *config) Validate(app *kong.Application) error {
	var known []string
	for _, f := range allFlags(app) {
		if f.Name != "config" && f.Name != "help" {
			known = append(known, f.Name)
		}
	}
	for key, set := range c.settings {
		if slices.Contains(known, key) {
			continue
		}
		if like := nearest(key, known); like != "" {
			return fmt.Errorf("line %d of %s: there is no flag %q; did you mean %q?", set.line, c.path, key, like)
		}
		return fmt.Errorf("line %d of %s: there is no flag %q", set.line, c.path, key)
	}
	return nil
}

// secret tells whether the file may hold a password.
func (c *config) secret() bool {
	return strings.Contains(c.settings["source"].text, "@") || strings.Contains(c.settings["target"].text, "@") || c.settings["admin-password"].text != ""
}
