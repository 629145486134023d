// Package crash has the tests that kill the real binary, its target and its connections at random moments and then compare both sides. It
// holds nothing else.
package crash
