-- Who was asked to approve a version, who did, when, on which evidence
-- question: Q10
-- param rev REVISION: the version
SELECT a.request, a.environment, a.requested_by, a.requested_at, a.needed, a.gate_verdict,
  a.approver, a.approved_at, a.reason, a.evidence, a.commit_author, a.deployment
FROM v_approvals a
WHERE a.revision = :rev
ORDER BY a.request, a.event
