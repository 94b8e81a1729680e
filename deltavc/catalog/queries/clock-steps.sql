-- Events whose clock stood before that of the event before them
-- question: Q17
SELECT e.number AS event, e.time, b.time AS before, e.actor, e."user", e.host, e.command, e.summary
FROM (
  SELECT number, lag(number) OVER (ORDER BY number) AS prior,
    time < lag(time) OVER (ORDER BY number) AS is_back
  FROM events) s
CROSS JOIN v_events e ON e.number = s.number
JOIN v_events b ON b.number = s.prior
WHERE s.is_back
ORDER BY s.number
