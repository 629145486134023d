package main

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// usage is what a process has used so far.
type usage struct {
	cpu  time.Duration
	peak int64 // bytes of resident memory at most
}

// usageOf asks Linux. The peak is VmHWM; ru_maxrss would not do, because a process inherits its parent's there.
func usageOf(pid int) (u usage, err error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return u, err
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return u, err
	}
	if u.peak, err = parsePeak(string(status)); err != nil {
		return u, err
	}
	u.cpu, err = parseCPU(string(stat))
	return u, err
}

func parsePeak(status string) (int64, error) {
	for line := range strings.Lines(status) {
		var kb int64
		if _, err := fmt.Sscanf(line, "VmHWM: %d kB", &kb); err == nil {
			return kb << 10, nil
		}
	}
	return 0, fmt.Errorf("no VmHWM in the process's status")
}

// parseCPU adds utime and stime, the 14th and 15th field, in ticks of 10 ms. The second one, the program's name, may hold blanks and brackets.
func parseCPU(stat string) (time.Duration, error) {
	_, behind, ok := strings.Cut(stat[max(0, strings.LastIndexByte(stat, ')')):], ") ")
	fields := strings.Fields(behind)
	if !ok || len(fields) < 13 {
		return 0, fmt.Errorf("the process's stat is %q", stat)
	}
	var ticks int64
	for _, text := range fields[11:13] {
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("the process's stat is %q: %w", stat, err)
		}
		ticks += n
	}
	return time.Duration(ticks) * 10 * time.Millisecond, nil
}

// machineBusy is the CPU time that the machine has spent on anything since it started: what it spends on others while a measurement runs
// tells how much the figures are worth. Zero where there is no /proc/stat.
func machineBusy() time.Duration {
	text, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0
	}
	return parseBusy(string(text))
}

// parseBusy adds up the first line, without idle and iowait, and without guest time, which is part of user time.
func parseBusy(stat string) time.Duration {
	first, _, _ := strings.Cut(stat, "\n")
	fields := strings.Fields(first)
	var ticks int64
	for i, text := range fields {
		if i == 0 || i == 4 || i == 5 || i > 7 { // its name, idle, iowait, steal and guests
			continue
		}
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			return 0
		}
		ticks += n
	}
	return time.Duration(ticks) * 10 * time.Millisecond
}
