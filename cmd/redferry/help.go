package main

import (
	"errors"

	"github.com/alecthomas/kong"
)

// errHelpShown ends the parsing of a command line that asks for help, in place of kong's own way: to call os.Exit from within.
var errHelpShown = errors.New("help was shown")

func showHelp(o kong.HelpOptions, ctx *kong.Context) error {
	if err := kong.DefaultHelpPrinter(o, ctx); err != nil {
		return err
	}
	return errHelpShown
}

type helpCmd struct {
	Command []string `arg:"" optional:"" help:"The command to show the help of."`
}

// Run is the same as --help behind the command.
func (c *helpCmd) Run(k *kong.Kong) error {
	_, err := k.Parse(append(c.Command, "--help"))
	var parse *kong.ParseError
	if errors.As(err, &parse) && !errors.Is(err, errHelpShown) {
		return usage(err)
	}
	return err
}
