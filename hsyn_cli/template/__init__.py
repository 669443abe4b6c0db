"""Templates: the mean image of a group, in the mean shape of the group.

`build.build` makes one from scans. Its folder, with one line for each kind of file:

    template.nii.gz                     the mean of all scans, once resampled; template_2.nii.gz of
                                        a second channel, and so on
    template_mask.nii.gz                uint8, 1 where at least half of the subjects' masks lie
    template.json                       the record, see below; written last but for the page
    index.html                          the page, see `page`
    pictures/                           what it shows of the rounds, a PNG for each
    subjects/ID/forward_field.nii.gz    total, on the template's grid: a point of the template ->
                                        that point of the scan; mm, LPS
    subjects/ID/inverse_field.nii.gz    total, on the scan's grid: a point of the scan -> template
    subjects/ID/affine.mat              the affine map nearest to the forward field in the mask
    subjects/ID/warped.nii.gz           the scan in template space, on the template's scale
    subjects/ID/log_jacobian.nii.gz     ln of the forward field's determinant, affine included,
                                        on the template's grid
    subjects/ID/subject.json            the subject's entry in template.json, with the key of its
                                        files; written last of them
    work/frame-K/, work/round-K/        cohorts of pairs as `hsyn batch` makes them (pairs/ID/,
                                        status/ID.json, index.html), which a run goes on from
    work/*/mean.nii.gz, mean_K.nii.gz, mask.nii.gz, affines.json, shift.nii.gz, stage.json
                                        what the next stage starts from; stage.json, written last,
                                        is one entry of "frame" or "rounds" with a key

The fields in work/round-K/pairs are removed when the next round stands, those of the last round
when the subjects' files stand. Nothing in work/ is needed to use the template.

template.json (all lengths mm, all points LPS; a missing number is null):

    schema_version, versions, warnings  as in every record of hsyn
    key         SHA-256 of all that decides the files
    settings    {option: value}: frame, rounds, tolerance, sharpen, spacing, preset, first_preset,
                model, similarity, search, smoothness, seed, threads
    grid        {size, spacing, origin, direction, dimension} of the template
    scale       {hounsfield: bool, low, high}: the grey values of the template that each scan's
                dark and bright end became; in Hounsfield units, low and high are null
    channels    how many
    outputs     {"template", "template_2", ..., "mask": file in the folder}
    subjects    in the order of the sums, which is that of the SHA-256 of their scans:
                {id, scans: [path], sha256: [hash], mask: path or null,
                 outputs: {forward_field, inverse_field, affine, warped, log_jacobian: file},
                 displacement_mm: {mean, max} over the template's mask, beyond a rigid motion:
                     how far the subject's shape is from the template's,
                 linear: {scales, rotation_degrees, shear, translation_mm}, see `fields.change`,
                 log_det_mean, log_det_sd over the mask,
                 correlation of the warped scan with the template, over the mask,
                 folding, inverse_folding, inverse_error_template, inverse_error_subject: as in
                     report.json,
                 problems: [reasons why its last registration is not to be trusted]}
    left_out    [{id, scans, stage: "frame-1" or "round-2", exit_code, error}]
    frame       the start and each affine pass: {stage, subjects, seconds, voxel, sharpness,
                 doubtful}
    rounds      one entry for each round: {stage, round, preset, subjects, seconds,
                 mean_displacement_mm: norm of the mean displacement that the round took out,
                     averaged over the mask,
                     errors that all registrations of the round have in common are in it,
                 left_mm: the same after the update, as it is in the fields of the round,
                 change: relative L2 difference to the template of the round before, in the mask,
                 sharpness: mean gradient magnitude in the mask, grey values per mm,
                 displacements_mm: {id: mean over the mask},
                 doubtful: {id: reasons why its registration is not to be trusted}}
    ended       "tolerance" if the template changed less than that, else "rounds"
    left_mm     norm of the mean displacement in the forward fields as written, over the mask
    sharpness   of the template
    finish_seconds  for the subjects' files

With --longitudinal (`longitudinal.longitudinal_files`), the scans of the group are the subjects'
templates, and these are there, too:

    within/SUBJECT/                 the subject's own template, a folder like this one; its subjects
                                    are the visits, so within/SUBJECT/subjects/VISIT/
                                    log_jacobian.nii.gz is the change within the subject
    visits/SUBJECT/VISIT/           of a visit and the group's template: forward_field.nii.gz,
                                    inverse_field.nii.gz (composed), warped.nii.gz,
        within_log_jacobian.nii.gz  the change within the subject, resampled into the group's space
        total_log_jacobian.nii.gz   of the composed forward field
        visit.json                  its numbers and their key; written last
    work/within/SUBJECT.json        that the subject's own template stands, or why not

    longitudinal    in template.json: {key, settings of the subjects' own templates, subjects: [{id,
                    subject: text of the table, template: file or null, visits: [{id, visit: text
                    of the table, scans, sha256, mask,
                    within: null for an only visit, or {outputs, displacement_mm, log_det_mean,
                        log_det_sd, correlation, problems} as in the record of the own template,
                    outputs: {forward_field, inverse_field, warped, total_log_jacobian,
                        within_log_jacobian}, folding, inverse_folding,
                    inverse_error_template, inverse_error_visit,
                    problems: [reasons not to trust it: of its registration in the subject's own
                        template, of the subject's in the group's, of the composed fields]}]}],
                    left_out: [{id, visit: null for a whole subject, stage, exit_code, error}]}
"""
