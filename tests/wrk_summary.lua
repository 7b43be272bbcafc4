-- Prints what wrk counted as one line of JSON, the last of its output.
function done(summary, latency)
    local errors = summary.errors
    io.write(string.format(
        '\n{"requests": %d, "duration_us": %d, "socket_errors": %d, "refused": %d,' ..
        ' "latency_p50_us": %d, "latency_p99_us": %d}\n',
        summary.requests, summary.duration,
        errors.connect + errors.read + errors.write + errors.timeout, errors.status,
        latency:percentile(50), latency:percentile(99)))
end
